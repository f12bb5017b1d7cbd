"""A comparison in the terminal."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from opt_runner.report.columns import columns
from opt_runner.report.comparison import Comparison


def table(comparison: Comparison) -> Table:
    """The best row is bold; rows with runs that did not finish are yellow."""
    drawn = Table(
        title=Text(comparison.title), title_justify="left", header_style="bold", box=SIMPLE_HEAD
    )
    shown = columns(comparison, brief=True)
    for position, column in enumerate(shown):
        drawn.add_column(column.heading, justify="right" if position else "left", no_wrap=True)
    for row in comparison.rows:
        style = "bold" if row is comparison.best else ""
        if comparison.unfinished(row):
            style = "yellow"
        drawn.add_row(*(Text(column.text(comparison, row), style=style) for column in shown))
    return drawn


def faults(comparison: Comparison) -> Iterator[str]:
    """A line for each run that did not finish."""
    for row in comparison.rows:
        for run in row.runs:
            if run.status != "finished":
                error = run.damage or (run.result.error if run.result else None)
                reason = f": {error.splitlines()[0]}" if error else ""
                task = f"{comparison.model} {comparison.dataset} seed {run.seed}"
                yield f"{row.label} {task}: {run.status}{reason}"
