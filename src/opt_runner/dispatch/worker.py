"""A worker process: executes the runs that its launcher sends, one after the other.

Nothing here imports torch before a run starts: the environment it reads must be set by then.
"""

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from opt_runner.config.schema import Config
from opt_runner.errors import in_words
from opt_runner.files import write_text_quickly
from opt_runner.run.interrupt import STOPPING, Interrupted, StopRequest, answered

if TYPE_CHECKING:
    from opt_runner.console.screen import Screen
    from opt_runner.run.run import Run

_LOOK_FOR_LAUNCHER_SECONDS = 1.0


@dataclass(frozen=True)
class Job:
    """A run, as its launcher sends it.

    content: of its config. command: what makes the run. quiet: write nothing but failures.
    status: a file that says how far the run is, for the launcher to show.
    """

    content: dict[str, Any]
    command: str
    quiet: bool
    status: Path

    @classmethod
    def of(cls, run: "Run", screen: "Screen", status: Path) -> Self:
        return cls(run.config.content, run.command, screen.mode == "none", status)


def serve(launcher: int) -> None:
    """Execute what comes through the connection that is this process's standard input; answer each
    with None, or with Interrupted or the words of what else was raised.

    launcher: its process. A worker whose launcher is killed saves its run and ends.
    """
    connection = Connection(os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    faulthandler.enable(all_threads=False)  # a crash shows where in the log
    with stop_on_signals() as stop:
        # Blocked since before this process was there, so that one at its start is not its end.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        threading.Thread(target=_stop_without, args=(launcher,), daemon=True).start()
        with contextlib.suppress(EOFError, OSError):  # the launcher wants no more, or is gone
            while True:
                job = connection.recv()
                connection.send(answer(job, stop))


def answer(job: Job, stop: StopRequest) -> Interrupted | str | None:
    """Execute a run. Returns Interrupted, or the words of what else `work` raises."""
    try:
        work(job, stop)
    except Interrupted as error:
        return error
    except Exception as error:
        return in_words(error)
    return None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within the block signals ask to stop. One that comes twice, as from a terminal and from the
    launcher, is one request."""
    stop = StopRequest()
    with answered(dict.fromkeys(STOPPING, lambda signum, _: stop.ask(signum))):
        yield stop


def _stop_without(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_LOOK_FOR_LAUNCHER_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def work(job: Job, stop: StopRequest) -> None:
    """Execute one run; its result is on disk at the end.

    Raises Interrupted after saving, where `stop` asks for it.
    """
    try:
        with stop.at_once():
            config = Config.model_validate(_on_this_gpu(job.content))
            _show(job.status, config.title, 0, None, "starts")
            from opt_runner.console.screen import Screen
            from opt_runner.run.execute import execute
            from opt_runner.run.run import identify

            run = identify(config, job.command)
        screen = Screen("none" if job.quiet else "plain", draw=partial(_show, job.status))
        execute(run, screen, in_sweep=True, stop=stop)
    finally:
        job.status.unlink(missing_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()


def _show(status: Path, title: str, step: int, steps: int | None, info: str) -> None:
    line = json.dumps({"title": title, "step": step, "steps": steps, "info": info})
    write_text_quickly(status, line)


def _on_this_gpu(content: dict[str, Any]) -> dict[str, Any]:
    """A worker sees one GPU, its own, whatever number that has for the launcher."""
    hardware = content["hardware"]
    return {**content, "hardware": {**hardware, "device": hardware["device"].partition(":")[0]}}
