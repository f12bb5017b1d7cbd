"""A worker process of this machine, as its launcher sees it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import Pipe
from pathlib import Path

from opt_runner.dispatch.worker import Job
from opt_runner.run.interrupt import Interrupted

_BLOCKED = (signal.SIGINT, signal.SIGTERM)


class WorkerEnded(Exception):
    """A worker is not there any more, or was told to stop by somebody else; says by what."""


class Worker:
    """environment: beside this process's own. log: where its output goes."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        # The same sys.path as here, where modules of the user's have been found.
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from opt_runner.dispatch.worker import serve; serve({os.getpid()})"
        )
        self._connection, its_end = Pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        try:
            with its_end, log.open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program],
                    env={**os.environ, **environment},
                    stdin=its_end.fileno(),
                    stdout=output,
                    stderr=output,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def execute(self, job: Job) -> str | None:
        """None where the run's result is on disk, else what was raised in the worker, in words.

        Raises WorkerEnded.
        """
        try:
            self._connection.send(job)
            answer: Interrupted | str | None = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerEnded(_how_it_ended(self._process.wait())) from error
        if isinstance(answer, Interrupted):
            raise WorkerEnded(f"was stopped by {answer}")
        return answer

    def signal(self, signum: int) -> None:
        self._process.send_signal(signum)

    def close(self) -> None:
        """Let it end, and wait until it has."""
        self._connection.close()
        self._process.wait()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    why = " (by somebody, or as memory ran out)" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{why}"
