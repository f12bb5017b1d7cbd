"""A comparison in the terminal."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from opt_runner.report.comparison import Comparison


def table(comparison: Comparison) -> Table:
    """The best row is bold; rows with cells that did not finish are yellow."""
    drawn = Table(
        title=Text(comparison.title), title_justify="left", header_style="bold", box=SIMPLE_HEAD
    )
    shown = comparison.columns(brief=True)
    for position, (heading, _) in enumerate(shown):
        drawn.add_column(heading, justify="right" if position else "left", no_wrap=True)
    for row in comparison.rows:
        style = "bold" if row is comparison.best else ""
        if comparison.unfinished(row):
            style = "yellow"
        drawn.add_row(*(Text(cell(comparison, row), style=style) for _, cell in shown))
    return drawn


def faults(comparison: Comparison) -> Iterator[str]:
    """A line for each cell that did not finish."""
    for row in comparison.rows:
        for cell in row.cells:
            if cell.status != "finished":
                error = cell.damage or (cell.result.error if cell.result else None)
                reason = f": {error.splitlines()[0]}" if error else ""
                task = f"{comparison.model} {comparison.dataset} seed {cell.seed}"
                yield f"{row.label} {task}: {cell.status}{reason}"
