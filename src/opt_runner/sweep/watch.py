"""Progress of a sweep, read from the files of its runs and workers, for every launcher."""

import json
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opt_runner.console.screen import Screen, SweepBars, duration
from opt_runner.records.result import Result
from opt_runner.run.run import Run
from opt_runner.sweep.sweep import Sweep

_POLL_SECONDS = 0.25


@contextmanager
def watched(
    sweep: Sweep, left: Sequence[Run], screen: Screen, expected: Callable[[], int] = lambda: 0
) -> Iterator[Callable[[Run], None]]:
    """Show workers' lines, bars for running runs, and a line for each end within the block.

    Yields a function that adds a run. expected: returns how many runs will still be added.
    """
    watcher = _Watcher(sweep, left, screen, expected)
    thread = threading.Thread(target=watcher.watch, name="sweep watcher", daemon=True)
    thread.start()
    try:
        yield watcher.add
    finally:
        watcher.over.set()
        thread.join()


class _Watcher:
    def __init__(
        self, sweep: Sweep, left: Sequence[Run], screen: Screen, expected: Callable[[], int]
    ) -> None:
        self.sweep = sweep
        self.screen = screen
        self.expected = expected
        self.over = threading.Event()
        self.before = {run.signature: self._written(run) for run in left}
        self.open = list(left)
        self.done = 0
        self.failed = 0
        self.started = time.monotonic()
        self.spent: dict[str, list[float]] = defaultdict(list)  # seconds of ended runs by kind
        self.slots = 1
        self.positions: dict[Path, int] = defaultdict(int)  # shown up to these positions
        self.positions |= {path: path.stat().st_size for path in self._files("slot-*.log")}
        for former in self._files("slot-*.json"):
            former.unlink(missing_ok=True)

    def add(self, run: Run) -> None:
        # Two trials may be the same run, and then end together.
        if all(one.signature != run.signature for one in list(self.open)):
            self.before[run.signature] = self._written(run)
        self.open.append(run)

    def watch(self) -> None:
        with SweepBars(self.screen) as bars:
            last = False
            while not last:
                last = self.over.wait(_POLL_SECONDS)
                self._show_logs(last)
                ended = self._take_ended()
                running = self._running()
                total = self.done + len(self.open) + self.expected()
                left = self._seconds_left(running)
                if ended and not self.screen.live:  # else the bars show it
                    text = f"sweep: {self.done} of {total} runs done"
                    if self.failed:
                        text += f", {self.failed} failed"
                    if left is not None and self.done < total:
                        text += f", {duration(left)} left"
                    self.screen.say(text)
                bars.draw(self.done, total, self.failed, left, running)

    def _files(self, pattern: str) -> list[Path]:
        return sorted(self.sweep.folder.glob(pattern))

    def _show_logs(self, last: bool) -> None:
        """Show the whole lines that workers have written since the last look."""
        for path in self._files("slot-*.log"):
            try:
                with path.open("rb") as file:
                    file.seek(self.positions[path])
                    text = file.read()
            except OSError:
                continue
            if not last:
                text = text[: text.rfind(b"\n") + 1]
            self.positions[path] += len(text)
            for line in text.decode(errors="replace").splitlines():
                self.screen.fail(line)  # if the screen is silent, workers write only failures

    def _running(self) -> dict[str, dict[str, Any]]:
        """Return title, step, steps and info of the running runs, by slot."""
        found = {}
        for path in self._files("slot-*.json"):
            try:
                found[path.stem] = json.loads(path.read_text())
            except (OSError, ValueError):  # it has just ended
                continue
        self.slots = max(self.slots, len(found))
        return found

    def _take_ended(self) -> list[Result]:
        """Return the results of the runs that have ended since the last look."""
        results = []
        for run in list(self.open):
            if self._written(run) == self.before[run.signature]:
                continue
            found = self.sweep.stored(run)
            # An interrupted run resumes elsewhere, or the sweep ends.
            if not found or not found.result or found.result.status == "interrupted":
                continue
            self.open.remove(run)
            self.done += 1
            self.failed += not found.result.ended_well
            self.spent[_kind(run)].append(found.result.seconds)
            results.append(found.result)
        return results

    def _seconds_left(self, running: Mapping[str, dict[str, Any]]) -> float | None:
        """Estimate the time to the end from ended runs of the same kind. None: not known yet.

        Start, tests and saving are counted as their share of the time so far.
        """
        trained = sum(sum(seconds) for seconds in self.spent.values())
        if not trained:
            return None
        mean = trained / self.done
        need = mean * self.expected()
        need += sum(statistics.fmean(self.spent.get(_kind(run), [mean])) for run in self.open)
        under_way: float = sum(
            mean * one["step"] / one["steps"] for one in running.values() if one.get("steps")
        )
        overhead = max(1.0, (time.monotonic() - self.started) * self.slots / (trained + under_way))
        return max(0.0, need - under_way) * overhead / self.slots

    def _written(self, run: Run) -> int | None:
        found = None if self.sweep.knows_device(run) else self.sweep.stored(run)
        return (found or run).record.result_time()


def _kind(run: Run) -> str:
    config = run.config
    return f"{config.dataset.name} {config.model.name} {config.method.name}"
