"""What a job of Slurm executes: one run, which a signal saves and submitit then requeues.

Nothing here imports torch before the signals are answered: submitit's own handlers would requeue
the job, or raise, in the middle of an import.
"""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission

from opt_runner.dispatch.slots import thread_variables
from opt_runner.errors import UserError
from opt_runner.files import write_text_quickly
from opt_runner.run.interrupt import Interrupted, StopRequest, stop_requests

_DRAW_SECONDS = 5.0


@dataclass(frozen=True)
class RunOfJob:
    """content: of the run's config. command: what makes the run. sweep: its id, W&B's group.
    log: a file for all that the job writes. status: a file that says how far the run is."""

    content: dict[str, Any]
    command: str
    sweep: str
    log: Path
    status: Path

    def __call__(self) -> None:
        """The run's result is on disk at the end. Ends the process where the job is requeued."""
        with stop_requests() as stop:
            _write_to(self.log)
            print(f"job {job_id()} on {os.uname().nodename}", flush=True)
            cores = int(os.environ.get("SLURM_CPUS_ON_NODE", "1"))
            for name, value in thread_variables(cores).items():
                os.environ.setdefault(name, value)
            try:
                self._execute(stop)
            except UserError as error:
                sys.exit(f"opt-run: {error}")
            finally:
                self.status.unlink(missing_ok=True)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit requeues: the same, which goes on from the run's checkpoint."""
        return DelayedSubmission(self)

    def _execute(self, stop: StopRequest) -> None:
        from opt_runner.config.schema import Config
        from opt_runner.console import wandb
        from opt_runner.console.screen import Screen
        from opt_runner.run.execute import execute
        from opt_runner.run.run import identify

        os.environ[wandb.SWEEP_VARIABLE] = self.sweep
        drawn = -_DRAW_SECONDS

        def draw(title: str, step: int, steps: int, info: str) -> None:
            nonlocal drawn
            if time.monotonic() - drawn >= _DRAW_SECONDS:
                drawn = time.monotonic()
                line = json.dumps({"title": title, "step": step, "steps": steps, "info": info})
                write_text_quickly(self.status, line)

        # A device that is missing is the run's failure, which `execute` records.
        run = identify(Config.model_validate(self.content), self.command, check_device=False)
        try:
            execute(run, Screen("plain", draw=draw), in_sweep=True, stop=stop)
        except Interrupted:
            result = run.record.read_result()
            if result is not None and (result.settled or result.status == "pruned"):
                stop.signum = None  # it came after the last step: nothing is left to requeue for


def job_id() -> str:
    """Of the job that this process is of, as squeue names it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _write_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
