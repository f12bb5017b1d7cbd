"""How far a sweep is, read from its records: the same under every launcher."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opt_runner.console.screen import Screen, duration
from opt_runner.records.result import Result
from opt_runner.runs.run import Run
from opt_runner.runs.sweep import Sweep

_POLL_SECONDS = 0.5


@contextmanager
def watched(sweep: Sweep, left: Sequence[Run], screen: Screen) -> Iterator[None]:
    """Within the block, a line for each run of `left` that ends."""
    watcher = _Watcher(sweep, left, screen)
    thread = threading.Thread(target=watcher.watch, name="sweep watcher", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watcher.over.set()
        thread.join()


class _Watcher:
    def __init__(self, sweep: Sweep, left: Sequence[Run], screen: Screen) -> None:
        self.sweep = sweep
        self.screen = screen
        self.over = threading.Event()
        self.started = time.monotonic()
        self.before = {run.signature: self._written(run) for run in left}
        self.open = list(left)
        self.total = len(left)
        self.failed = 0

    def watch(self) -> None:
        while not self.over.wait(_POLL_SECONDS):
            self._look()
        self._look()

    def _look(self) -> None:
        """Tell of each run that has ended since the last look."""
        for run in list(self.open):
            if self._written(run) != self.before[run.signature]:
                found = self.sweep.stored(run)
                if found is not None and found.result is not None:
                    self.open.remove(run)
                    self._tell(found.result)

    def _tell(self, result: Result) -> None:
        self.failed += result.status != "finished"
        done = self.total - len(self.open)
        failed = f", {self.failed} failed" if self.failed else ""
        spent = time.monotonic() - self.started
        left = f", {duration(spent / done * len(self.open))} left" if self.open else ""
        self.screen.say(f"sweep: {done} of {self.total} runs done{failed}{left}")

    def _written(self, run: Run) -> int | None:
        """When the run's result was written, in ns."""
        path = run.record.result
        if not self.sweep.here:
            found = self.sweep.stored(run)
            path = found.record.result if found else path
        try:
            return path.stat().st_mtime_ns
        except OSError:
            return None
