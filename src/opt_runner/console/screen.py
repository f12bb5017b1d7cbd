"""The terminal: lines, and progress bars of a run or a sweep."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.segment import Segment
from rich.text import Text

from opt_runner.console.steady import make_steady
from opt_runner.datasets.data import Measure
from opt_runner.records.reading import printable
from opt_runner.records.result import Result

Mode = Literal["auto", "bar", "plain", "none"]

_PLAIN_SECONDS = 10.0
_MOST_WIDE = 10_000
_WIDTH = 120  # for a file or a pipe; 80 columns would cut words in tables


class _Console(Console):
    """A console that prints text as it is: no markup, no emoji codes, no escape sequences."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


def new_console(stderr: bool = False) -> Console:
    """Return a console on standard output, or error.

    FORCE_COLOR gives a file colours, but no bars.
    """
    make_steady()
    for name in ("COLUMNS", "LINES"):  # Rich fails for some words, and fills the memory with 10^9
        given = os.environ.get(name, "")
        if not (given.isdecimal() and 0 < int(given) <= _MOST_WIDE):
            os.environ.pop(name, None)
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    console = _Console(
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
        stderr=stderr,
        force_interactive=None if terminal else False,
    )
    if "COLUMNS" not in os.environ and not terminal:
        console.width = shutil.get_terminal_size((_WIDTH, 0)).columns
    return console


# Draws the progress of a run: title, step, steps, and a line of numbers.
Draw = Callable[[str, int, int, str], None]


class Screen:
    """The output of one process.

    mode: `bar` draws bars, `plain` writes lines, `none` writes only failures, on standard error;
    `auto` draws bars on a terminal and writes lines elsewhere.
    draw: replaces this screen's own bar or lines for the progress of a run.
    """

    def __init__(
        self, mode: Mode = "auto", console: Console | None = None, draw: Draw | None = None
    ) -> None:
        self.mode = mode
        self.console = console or new_console()
        self._draw = draw

    @property
    def live(self) -> bool:
        """Return True if bars are drawn, which a file and a dumb terminal do not have."""
        return self.mode == "bar" or (self.mode == "auto" and self.console.is_interactive)

    def say(self, text: str) -> None:
        if self.mode != "none":
            self.console.print(text)

    def show(self, table: RenderableType) -> None:
        if self.mode != "none":
            self.console.print(table)

    def fail(self, text: str) -> None:
        """Print why something failed, in every mode."""
        if self.mode == "none":
            new_console(stderr=True).print(text)
        else:
            self.say(text)

    @contextmanager
    def run(self, title: str, steps: int, measure: Measure) -> Iterator["RunDisplay"]:
        """Yield the display of one run while it trains."""
        if self._draw is not None or not self.live:
            self._said = time.monotonic()
            yield RunDisplay(self, title, steps, measure, self._draw or self._write_line)
            return
        with bars(self.console) as drawn:
            task = drawn.add_task(title, total=steps, info="")

            def draw(_: str, step: int, __: int, info: str) -> None:
                drawn.update(task, completed=step, info=info)

            yield RunDisplay(self, title, steps, measure, draw)

    def _write_line(self, title: str, step: int, steps: int, info: str) -> None:
        """Write the progress of a run, every ten seconds."""
        if time.monotonic() - self._said > _PLAIN_SECONDS:
            self._said = time.monotonic()
            self.say(f"{title}: step {step} of {steps}, {info}")


def bars(console: Console) -> Progress:
    """Return bars for tasks that have a description and a field `info`."""
    return Progress(
        TextColumn("{task.description}", markup=False),  # a user's name may look like markup
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[info]}", markup=False),
        console=console,
        transient=True,
    )


@dataclass
class RunDisplay:
    """The progress display of a run."""

    screen: Screen
    title: str
    steps: int
    measure: Measure
    draw: Draw
    _first: tuple[float, int] | None = None
    _error: str | None = None

    def report(self, row: dict[str, Any]) -> None:
        """Show the error of this row of metrics from now on."""
        for key in ("validation_error", "test_error"):
            if key in row:
                self._error = self.measure.said(key.partition("_")[0], row[key])
                return

    def show(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = (now, step)
        since, first = self._first
        rate = (step - first) / (now - since) if now > since else 0.0
        parts = [f"loss {loss:.3f}"]
        if self._error is not None:
            parts.append(self._error)
        if rate:
            parts.append(f"{rate:.1f} steps/s")
            parts.append(f"{duration((self.steps - step) / rate)} left")
        self.draw(self.title, step, self.steps, ", ".join(parts))

    def end(self, result: Result) -> None:
        show = self.screen.say if result.ended_well else self.screen.fail
        show(f"{self.title}: {outcome(result)}")


class SweepBars:
    """The bars of a sweep, shown within its block on a live screen, else not."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self._bars = bars(screen.console)
        self._tasks: dict[tuple[str, str], TaskID] = {}  # by slot and title

    def __enter__(self) -> Self:
        if self.screen.live:
            self._bars.start()
            self._sweep = self._bars.add_task("sweep", total=None, info="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.screen.live:
            self._bars.stop()

    def draw(
        self,
        done: int,
        total: int,
        failed: int,
        left: float | None,
        running: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Draw the bars.

        left: seconds to the end. running: title, step, steps and info of each running run, by slot.
        """
        if not self.screen.live:
            return
        info = f"{failed} failed" if failed else "none failed"
        if left is not None and done < total:
            info += f", {duration(left)} left"
        self._bars.update(self._sweep, completed=done, total=total, info=info)
        shown = {(slot, one["title"]): one for slot, one in running.items()}
        for gone in self._tasks.keys() - shown.keys():
            self._bars.remove_task(self._tasks.pop(gone))
        for key, one in shown.items():
            if key not in self._tasks:
                self._tasks[key] = self._bars.add_task(one["title"], total=None, info="")
            self._bars.update(
                self._tasks[key], total=one["steps"], completed=one["step"], info=one["info"]
            )


def outcome(result: Result) -> str:
    """Return how a run ended, in words."""
    if result.error:
        return f"{result.status}, {result.error.splitlines()[0]}"
    # With validation the test error is shown only in tables and at the end of a single run.
    name = "test" if result.validation_error is None else "validation"
    error = result.test_error if result.validation_error is None else result.validation_error
    if error is None:
        return result.status
    return (
        f"{result.status}, {result.measure.said(name, error)} after {result.steps} steps in "
        f"{duration(result.seconds)}" + (f": {result.stopped}" if result.stopped else "")
    )


def duration(seconds: float) -> str:
    """Return the time in words, as `1 h 02 min`, `3 min 04 s` or `5 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
