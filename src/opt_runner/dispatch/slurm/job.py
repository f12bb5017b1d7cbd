"""A Slurm job, which executes one run. At a signal it saves, and submitit requeues the job.

Torch is imported only after the signal handlers are set: before, submitit's own handlers would
requeue the job, or raise, in the middle of an import.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from submitit.helpers import DelayedSubmission

from opt_runner.dispatch.worker import Job, append_output_to, thread_variables, work
from opt_runner.errors import UserError
from opt_runner.run.interrupt import Interrupted, stop_requests

_SHOW_SECONDS = 5.0  # seconds: hundreds of jobs write to one network disk


@dataclass(frozen=True)
class RunOfJob:
    """The function that submitit calls in the job. directory: the run's record."""

    job: Job
    directory: Path

    def __call__(self) -> None:
        """Execute the run; its result is on disk at the end. Requeueing ends the process."""
        with stop_requests() as stop:
            self.directory.mkdir(parents=True, exist_ok=True)
            append_output_to(self.directory / "job.log")
            print(f"job {_job_id()} on {os.uname().nodename}", flush=True)
            cores = int(os.environ.get("SLURM_CPUS_ON_NODE", "1"))
            for name, value in thread_variables(cores).items():
                os.environ.setdefault(name, value)
            try:
                # A missing device is the run's failure, which is recorded.
                work(self.job, stop, check_device=False, show_seconds=_SHOW_SECONDS)
            except UserError as error:
                sys.exit(f"opt-run: {error}")
            except Interrupted:
                if self._is_done():
                    stop.signum = None  # it came after the last step: nothing is left to do

    def checkpoint(self) -> DelayedSubmission:
        """Return this function, which submitit requeues: the run resumes from its checkpoint."""
        return DelayedSubmission(self)

    def _is_done(self) -> bool:
        from opt_runner.records.record import Record

        result = Record(self.directory).read_result()
        return result is not None and (result.settled or result.status == "pruned")


def _job_id() -> str:
    """Return the id of this process's job, as squeue shows it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
