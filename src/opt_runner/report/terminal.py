"""A comparison in the terminal."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from opt_runner.records.reading import printable
from opt_runner.report.columns import sheet
from opt_runner.report.comparison import Comparison

if TYPE_CHECKING:
    from opt_runner.console.screen import Screen

_GAP = 3  # between two columns
_WRAPPED = 16  # the first and the last column are not wrapped below this width


def show(
    comparisons: Iterable[Comparison],
    screen: "Screen",
    fault: Callable[[str], None],
    notes: bool = False,
    names: Sequence[str] = (),
) -> None:
    """Show each comparison: its remarks, the table, and by `fault` a line for each unfinished run.

    notes: show the notes of the columns as well, each once. names: of the columns, see `sheet`.
    """
    told: dict[str, None] = {}
    for comparison in comparisons:
        for remark in comparison.remarks:
            screen.say(remark)
        drawn, shown = table(comparison, screen.console.width, names)
        screen.show(drawn)
        told |= dict.fromkeys(shown)
        for line in faults(comparison):
            fault(line)
    for note in told if notes else ():
        screen.say(f"- {note}")


def table(comparison: Comparison, width: int, names: Sequence[str] = ()) -> tuple[Table, list[str]]:
    """Return the table, and the notes of the columns that it has.

    The best row is bold; rows with unfinished runs are yellow. In a narrow terminal the first and
    the last column are wrapped, and columns left of the last are left out.

    width: of the terminal, in characters.
    """
    brief = sheet(comparison, brief=True, names=names)
    every = zip(brief.headings, *brief.cells, strict=True)
    widths = [max(map(len, texts)) for texts in every]
    for place in (0, -1):
        widths[place] = min(_WRAPPED, widths[place])
    kept = [*range(len(widths))]
    while len(kept) > 2 and sum(widths[place] + _GAP for place in kept) > width:
        kept.pop(-2)
    drawn = grid(comparison.title)
    for place in kept:
        drawn.add_column(
            text(brief.headings[place]), justify="right" if place else "left", overflow="fold",
            no_wrap=0 < place < len(widths) - 1, min_width=widths[place],
        )  # fmt: skip
    for row, cells in zip(comparison.rows, brief.cells, strict=True):
        style = "bold" if row is comparison.best else ""
        if comparison.unfinished(row):
            style = "yellow"
        drawn.add_row(*(text(cells[place], style) for place in kept))
    return drawn, [note for place in kept if (note := brief.columns[place].note)]


def grid(title: str = "") -> Table:
    """Return an empty table in the style of all tables of a terminal."""
    return Table(
        title=text(title) if title else None, title_justify="left", header_style="bold",
        box=SIMPLE_HEAD,
    )  # fmt: skip


def text(cell: str, style: str = "") -> Text:
    """Return a cell as one line without control characters."""
    return Text(" ".join(printable(cell).split()), style=style)


def faults(comparison: Comparison) -> Iterator[str]:
    """Yield a line for each run that did not finish."""
    for row in comparison.rows:
        for run in row.runs:
            if run.status != "finished":
                reason = f": {run.fault.splitlines()[0]}" if run.fault else ""
                task = f"{comparison.model} {comparison.dataset} seed {run.seed}"
                yield f"{row.label} {task}: {run.status}{reason}"
