"""A comparison in the terminal."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from opt_runner.report.columns import columns
from opt_runner.report.comparison import Comparison

if TYPE_CHECKING:
    from opt_runner.console.screen import Screen

_GAP = 3  # between two columns
_WRAPPED = 16  # the least width to which the first and the last column are wrapped


def show(comparisons: Iterable[Comparison], screen: "Screen", fault: Callable[[str], None]) -> None:
    """What the seeds could have shown, the table, and a line by `fault` for each run that did not
    finish, of each comparison."""
    for comparison in comparisons:
        if comparison.power:
            screen.say(comparison.power)
        screen.show(table(comparison, screen.console.width))
        for line in faults(comparison):
            fault(line)


def table(comparison: Comparison, width: int) -> Table:
    """The best row is bold; rows with runs that did not finish are yellow.

    width: of the terminal. In a narrow one the first and the last column are wrapped, and those
    left of the last are left out.
    """
    shown = columns(comparison, brief=True)
    cells = [[column.text(comparison, row) for column in shown] for row in comparison.rows]
    every = [[column.heading for column in shown], *cells]
    widths = [max(map(len, of_column)) for of_column in zip(*every, strict=True)]
    for place in (0, -1):
        widths[place] = min(_WRAPPED, widths[place])
    drawn = Table(
        title=Text(comparison.title), title_justify="left", header_style="bold", box=SIMPLE_HEAD
    )
    kept = _fitting(widths, width)
    for place in kept:
        drawn.add_column(
            shown[place].heading,
            justify="right" if place else "left",
            no_wrap=0 < place < len(shown) - 1,
            min_width=widths[place],
            overflow="fold",
        )
    for row, of_row in zip(comparison.rows, cells, strict=True):
        style = "bold" if row is comparison.best else ""
        if comparison.unfinished(row):
            style = "yellow"
        drawn.add_row(*(Text(of_row[place], style=style) for place in kept))
    return drawn


def _fitting(widths: Sequence[int], width: int) -> list[int]:
    """The places of the columns that fit: the first ones, and the last."""
    kept = list(range(len(widths)))
    while len(kept) > 2 and sum(widths[place] + _GAP for place in kept) > width:
        kept.pop(-2)
    return kept


def faults(comparison: Comparison) -> Iterator[str]:
    """A line for each run that did not finish."""
    for row in comparison.rows:
        for run in row.runs:
            if run.status != "finished":
                error = run.damage or (run.result.error if run.result else None)
                reason = f": {error.splitlines()[0]}" if error else ""
                task = f"{comparison.model} {comparison.dataset} seed {run.seed}"
                yield f"{row.label} {task}: {run.status}{reason}"
