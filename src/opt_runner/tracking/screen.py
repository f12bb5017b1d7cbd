"""The terminal: the sweep and its cell as live bars, or plain lines where there is no terminal."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

from opt_runner.records import Result

if TYPE_CHECKING:
    from opt_runner.training.loop import Progress as CellProgress

Mode = Literal["auto", "bar", "plain", "none"]

_PLAIN_SECONDS = 10.0
_SKIPPED_SECONDS = 0.5

console = Console(highlight=False, soft_wrap=True)
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = 120  # A file or a pipe has no width; 80 columns would cut the table's words.
_bars: Progress | None = None
_sweep: "_SweepBar | None" = None
_mode: Mode = "auto"
_tracking: dict[str, list[str]] = {}


def say(text: str) -> None:
    """One line above the bars."""
    if _mode != "none":
        console.print(text, markup=False)


def note_tracking(mode: str, directory: Path, url: str | None) -> None:
    """Remember where a W&B run is, for the lines at the end."""
    _tracking.setdefault(mode, []).append(url or str(directory))


def say_tracking(output_dir: str) -> None:
    """Which way W&B ran, where its files are and how to upload them."""
    offline, online = _tracking.pop("offline", []), _tracking.pop("online", [])
    if online:
        say(f"W&B: {len(online)} runs online, the last one at {online[-1]}")
    if len(offline) == 1:
        say(f"W&B: offline, no API key found; to upload: wandb sync {offline[0]}")
    elif offline:
        directory = Path(output_dir) / "wandb"
        say(
            f"W&B: {len(offline)} runs offline, no API key found; to upload: "
            f"wandb sync {directory}/offline-run-*"
        )


def set_mode(mode: Mode) -> None:
    global _mode
    _mode = mode


def _live() -> bool:
    return _mode == "bar" or (_mode == "auto" and console.is_terminal)


class _SweepBar:
    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.failed = 0
        self.since = time.monotonic()
        self.spent: list[float] = []
        self.task: TaskID | None = None

    def count(self, failed: bool) -> None:
        """A cell is over."""
        now = time.monotonic()
        self.done += 1
        self.failed += failed
        self.spent.append(now - self.since)
        self.since = now

    def left(self) -> str:
        if not self.done:
            return ""
        # Those that were finished before, and skipped, tell nothing of those to come.
        trained = [seconds for seconds in self.spent if seconds > _SKIPPED_SECONDS] or self.spent
        each = sum(trained) / len(trained)
        return f"{duration(each * (self.total - self.done))} left"

    def text(self) -> str:
        failed = f"[red]{self.failed} failed[/red]" if self.failed else "none failed"
        return f"{failed}  {self.left()}"


@contextmanager
def sweep(total: int) -> Iterator[None]:
    """Within the block cells count towards a sweep of `total`."""
    global _sweep
    _sweep = _SweepBar(total)
    try:
        yield
    finally:
        close()
        _sweep = None


def cell_done(result: Result | None) -> None:
    """A cell of the sweep is over; None: left to another process."""
    if _sweep is None:
        return
    _sweep.count(failed=result is not None and result.status != "finished")
    if _bars is not None and _sweep.task is not None:
        _bars.update(_sweep.task, completed=_sweep.done, info=_sweep.text())
    elif _mode != "none" and not _live():
        failed = f", {_sweep.failed} failed" if _sweep.failed else ""
        left = f", {_sweep.left()}" if _sweep.done < _sweep.total else ""
        say(f"sweep: {_sweep.done} of {_sweep.total} cells done{failed}{left}")


def close() -> None:
    """Take the bars away: what follows is printed below them."""
    global _bars
    if _bars is not None:
        _bars.stop()
        _bars = None


def _open_bars() -> Progress:
    global _bars
    if _bars is None:
        _bars = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=None)),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}", table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
        )
        _bars.start()
        if _sweep is not None:
            _sweep.task = _bars.add_task(
                "sweep", total=_sweep.total, completed=_sweep.done, info=_sweep.text()
            )
    return _bars


class CellBar:
    """Progress of one cell."""

    def __init__(self, title: str, steps: int) -> None:
        self.title = title
        self.steps = steps
        self.first: tuple[float, int] | None = None
        self.error: float | None = None
        self.said = time.monotonic()
        self.task: TaskID | None = None
        if _live():
            self.task = _open_bars().add_task(title, total=steps, info="")

    def report(self, row: dict[str, Any]) -> None:
        self.error = row.get("test_error", self.error)

    def show(self, progress: "CellProgress", loss: float) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = (now, progress.step)
        since, first = self.first
        rate = (progress.step - first) / (now - since) if now > since else 0.0
        parts = [f"loss {loss:.3f}"]
        if self.error is not None:
            parts.append(f"test error {self.error:.2f}%")
        if rate:
            parts.append(f"{rate:.1f} steps/s")
            parts.append(f"{duration((self.steps - progress.step) / rate)} left")
        if self.task is not None and _bars is not None:
            _bars.update(self.task, completed=progress.step, info="  ".join(parts))
        elif _mode != "none" and now - self.said > _PLAIN_SECONDS:
            self.said = now
            say(f"{self.title}: step {progress.step} of {self.steps}, {', '.join(parts)}")

    def end(self, result: Result) -> None:
        line = f"{self.title}: {result.status}"
        if result.error:
            line += f", {result.error.splitlines()[0]}"
        elif result.test_error is not None:
            line += f", test error {result.test_error:.2f}% after {result.steps} steps"
            line += f" in {duration(result.seconds)}"
        say(line)


@contextmanager
def cell(title: str, steps: int) -> Iterator[CellBar]:
    bar = CellBar(title, steps)
    try:
        yield bar
    finally:
        if bar.task is not None and _bars is not None:
            _bars.remove_task(bar.task)
        if _sweep is None:
            close()


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
