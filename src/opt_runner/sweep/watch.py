"""How far a sweep is, read from what its runs and workers write: the same under every launcher."""

import json
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opt_runner.console.screen import Screen, duration
from opt_runner.console.sweep_bars import SweepBars
from opt_runner.records.result import Result
from opt_runner.run.run import Run
from opt_runner.sweep.sweep import Sweep

_POLL_SECONDS = 0.25


@contextmanager
def watched(
    sweep: Sweep, left: Sequence[Run], screen: Screen, to_come: Callable[[], int] = lambda: 0
) -> Iterator[Callable[[Run], None]]:
    """Within the block: what workers write, bars for what runs, a line for each run that ends.

    Yields a function that takes in a run which was not known at the start. to_come: how many of
    these are still expected.
    """
    watcher = _Watcher(sweep, left, screen, to_come)
    thread = threading.Thread(target=watcher.watch, name="sweep watcher", daemon=True)
    thread.start()
    try:
        yield watcher.add
    finally:
        watcher.over.set()
        thread.join()


@dataclass
class _Log:
    """What a worker writes, taken line by line from where it is now."""

    path: Path
    position: int

    def lines(self, last: bool) -> list[str]:
        """Whole lines; with `last` what there is."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                text = file.read()
        except OSError:
            return []
        if not last:
            text = text[: text.rfind(b"\n") + 1]
        self.position += len(text)
        return text.decode(errors="replace").splitlines()


class _Watcher:
    def __init__(
        self, sweep: Sweep, left: Sequence[Run], screen: Screen, to_come: Callable[[], int]
    ) -> None:
        self.sweep = sweep
        self.screen = screen
        self.to_come = to_come
        self.over = threading.Event()
        self.before = {run.signature: self._written(run) for run in left}
        self.open = list(left)
        self.done = 0
        self.failed = 0
        self.started = time.monotonic()
        self.spent: dict[str, list[float]] = defaultdict(list)  # seconds of ended runs by kind
        self.slots = 1
        self.logs = {path: _Log(path, path.stat().st_size) for path in self._files("slot-*.log")}
        for former in self._files("slot-*.json"):
            former.unlink(missing_ok=True)

    @property
    def total(self) -> int:
        return self.done + len(self.open) + self.to_come()

    def add(self, run: Run) -> None:
        # Two trials of a search may be the same run: that one of them has ended is not forgotten.
        if all(one.signature != run.signature for one in list(self.open)):
            self.before[run.signature] = self._written(run)
        self.open.append(run)

    def watch(self) -> None:
        with SweepBars(self.screen) as bars:
            last = False
            while not last:
                last = self.over.wait(_POLL_SECONDS)
                self._relay(last)
                ended = self._ended()
                running = self._running()
                left = self._left(running)
                if ended:
                    self._tell(left)
                bars.draw(self.done, self.total, self.failed, left, running)

    def _files(self, pattern: str) -> list[Path]:
        return sorted(self.sweep.folder.glob(pattern))

    def _relay(self, last: bool) -> None:
        """Show what workers have written since the last look."""
        for path in self._files("slot-*.log"):
            for line in self.logs.setdefault(path, _Log(path, 0)).lines(last):
                # A silent screen's workers write of failures alone.
                self.screen.fail(line)

    def _running(self) -> dict[str, dict[str, Any]]:
        """title, step, steps and info of what runs now, by slot."""
        found = {}
        for path in self._files("slot-*.json"):
            try:
                found[path.stem] = json.loads(path.read_text())
            except (OSError, ValueError):  # it has just ended
                continue
        self.slots = max(self.slots, len(found))
        return found

    def _ended(self) -> list[Result]:
        """The results of the runs that have ended since the last look."""
        results = []
        waiting = {}
        look = list(self.open)
        now = {run.signature: self._written(run) for run in look}
        for run in look:
            if now[run.signature] == self.before[run.signature]:
                continue
            found = self.sweep.stored(run)
            # One that is interrupted goes on elsewhere, or the sweep ends.
            if not found or not found.result or found.result.status == "interrupted":
                waiting[run.signature] = now[run.signature]
                continue
            self.open.remove(run)
            self.done += 1
            self.failed += not found.result.ended_well
            self.spent[_kind(run)].append(found.result.seconds)
            results.append(found.result)
        self.before |= waiting
        return results

    def _tell(self, left: float | None) -> None:
        if self.screen.live:
            return  # the bars tell
        failed = f", {self.failed} failed" if self.failed else ""
        more = self.done < self.total
        text = f", {duration(left)} left" if left is not None and more else ""
        self.screen.say(f"sweep: {self.done} of {self.total} runs done{failed}{text}")

    def _left(self, running: Mapping[str, dict[str, Any]]) -> float | None:
        """Seconds until the sweep is done, as runs of the same kind took; None: not known yet.

        What is not training (start, tests, saving) is counted as the share of it so far.
        """
        trained = sum(sum(seconds) for seconds in self.spent.values())
        if not trained:
            return None
        mean = trained / self.done
        need = mean * self.to_come()
        for run in self.open:
            seconds = self.spent.get(_kind(run))
            need += statistics.fmean(seconds) if seconds else mean
        under_way: float = sum(
            mean * one["step"] / one["steps"] for one in running.values() if one.get("steps")
        )
        overhead = max(1.0, (time.monotonic() - self.started) * self.slots / (trained + under_way))
        return max(0.0, need - under_way) * overhead / self.slots

    def _written(self, run: Run) -> int | None:
        """When the run's result was written, in ns."""
        path = run.record.result
        if not self.sweep.knows_device(run):
            found = self.sweep.stored(run)
            path = found.record.result if found else path
        try:
            return path.stat().st_mtime_ns
        except OSError:
            return None


def _kind(run: Run) -> str:
    config = run.config
    return f"{config.dataset.name} {config.model.name} {config.method.name}"
