"""A worker process: executes the runs that its launcher sends, one after the other.

Nothing here imports torch before a run starts: the environment it reads must be set by then.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from opt_runner.config.schema import Config
from opt_runner.files import write_text_quickly
from opt_runner.training.interrupt import Interrupted, StopRequest

_LOOK_FOR_PARENT_SECONDS = 1.0

# One a process, as signals are.
_stop = StopRequest()


def enter(log: Path) -> None:
    """Make this process a worker: its output goes to `log`, a signal asks the run to stop.

    A signal that comes twice, as from a terminal and from the launcher, is one request. A worker
    whose launcher is killed saves its run and ends.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)

    def ask(signum: int, frame: object) -> None:
        _stop.ask(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, ask)
    threading.Thread(target=_stop_without, args=(os.getppid(),), daemon=True).start()


def _stop_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_FOR_PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def work(content: dict[str, Any], command: str, quiet: bool, status: Path) -> None:
    """Execute one run; its result is on disk at the end.

    content: of its config. command: what makes the run. quiet: write nothing but failures.
    status: a file that says how far the run is, for the launcher to show.
    Raises Interrupted after saving, where a signal asks to stop.
    """
    from opt_runner.console.screen import Screen
    from opt_runner.runs.execute import execute
    from opt_runner.runs.run import identify

    if _stop.signum is not None:
        raise Interrupted(_stop.signum)

    def draw(title: str, step: int, steps: int, info: str) -> None:
        line = json.dumps({"title": title, "step": step, "steps": steps, "info": info})
        write_text_quickly(status, line)

    screen = Screen("none" if quiet else "plain", draw=draw)
    try:
        run = identify(Config.model_validate(content), command)
        execute(run, screen, in_sweep=True, stop=_stop)
    finally:
        status.unlink(missing_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
