"""A worker: executes the runs that a launcher sends it, in any process on any machine.

Nothing here imports torch before a run starts: the environment that torch reads must be set first.
"""

import contextlib
import faulthandler
import functools
import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from opt_runner.config.schema import Config
from opt_runner.config.titles import SWEEP_VARIABLE, title
from opt_runner.errors import in_words
from opt_runner.files import remove_link, write_text_quickly
from opt_runner.run.interrupt import STOPPING, Interrupted, StopRequest, stop_requests

if TYPE_CHECKING:
    from opt_runner.run.run import Identifier, Run
    from opt_runner.sweep.sweep import Sweep

_LOOK_FOR_LAUNCHER_SECONDS = 1.0
OUTPUTS = (1, 2)  # standard output and standard error


@dataclass(frozen=True)
class Job:
    """A run, as a launcher sends it to a worker.

    content: the run's config. command: the command line that repeats it. sweep: the sweep's id, by
    which trackers group its runs. quiet: write nothing but failures. status: a file that says how
    far the run is, for the launcher to show.
    """

    content: dict[str, Any]
    command: str
    sweep: str
    quiet: bool
    status: Path

    @classmethod
    def of(cls, run: "Run", sweep: "Sweep", quiet: bool) -> Self:
        of_sweep = os.environ.get(SWEEP_VARIABLE, sweep.id)
        return cls(run.config.content, run.command, of_sweep, quiet, status_file(run, sweep))


def status_file(run: "Run", sweep: "Sweep") -> Path:
    """Return the file in which a worker says how far its run is."""
    return sweep.folder.absolute() / f"slot-{run.signature}.json"


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment of a process with so many threads; numpy and torch read it."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def serve(launcher: int) -> None:
    """Execute the jobs that come through the connection that is this process's standard input.

    Each is answered as `answer` says. launcher: its process id. When the launcher is killed, the
    worker saves its run and ends.
    """
    connection = Connection(os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    faulthandler.enable(all_threads=False)  # a crash shows in the log
    with stop_requests(once=False) as stop:
        # The launcher blocked these signals before it started this process.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        threading.Thread(target=_stop_without, args=(launcher,), daemon=True).start()
        with contextlib.suppress(EOFError, OSError):  # the launcher has no more jobs, or is gone
            while True:
                job = connection.recv()
                connection.send(answer(job, stop))


def answer(job: Job, stop: StopRequest) -> Interrupted | str | None:
    """Execute a run. Returns None, or Interrupted, or the words of another error of `work`."""
    try:
        work(job, stop)
    except Interrupted as error:
        return error
    except Exception as error:
        return in_words(error)
    return None


def append_output_to(log: Path) -> None:
    """Append all further output of this process to the file `log`."""
    remove_link(log)
    with log.open("ab") as file:
        for stream in OUTPUTS:
            os.dup2(file.fileno(), stream)


def work(job: Job, stop: StopRequest, check_device: bool = True, show_seconds: float = 0.0) -> None:
    """Execute one run; its result is on disk at the end.

    check_device: see `Identifier`. show_seconds: the least time between two writes of the status.
    Raises Interrupted after saving, if `stop` asks for it.
    """
    shown = -show_seconds

    def show(name: str, step: int, steps: int | None, info: str) -> None:
        nonlocal shown
        if time.monotonic() - shown >= show_seconds:
            shown = time.monotonic()
            line = {"title": name, "step": step, "steps": steps, "info": info}
            write_text_quickly(job.status, json.dumps(line))

    try:
        with stop.at_once():
            config = Config.model_validate(_on_own_gpu(job.content))
            os.environ[SWEEP_VARIABLE] = job.sweep
            show(title(config), 0, None, "starts")
            from opt_runner.console.screen import Screen
            from opt_runner.run.execute import execute

            run = _identifier(check_device)(config, job.command)
        screen = Screen("none" if job.quiet else "plain", draw=show)
        execute(run, screen, in_sweep=True, stop=stop)
    finally:
        job.status.unlink(missing_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()


@functools.cache
def _identifier(check_device: bool) -> "Identifier":
    """Return the worker's identifier, which checks and reads each dataset once for all runs."""
    from opt_runner.run.run import Identifier

    return Identifier(check_device)


def _on_own_gpu(content: dict[str, Any]) -> dict[str, Any]:
    """Return the config for a worker that sees one GPU, whatever its number for the launcher."""
    hardware = content["hardware"]
    return {**content, "hardware": {**hardware, "device": hardware["device"].partition(":")[0]}}


def _stop_without(launcher: int) -> None:
    """Ask this process to stop as soon as its launcher is gone."""
    while os.getppid() == launcher:
        time.sleep(_LOOK_FOR_LAUNCHER_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
