"""A search in the terminal: what became of its trials, and the best of them."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from opt_runner.records.search import STATUSES, SearchRecord, words
from opt_runner.report.columns import mean
from opt_runner.report.statistics import Mean

_SHOWN = 10


def counts(search: SearchRecord) -> str:
    """As `search-1a2b3c4d: trials: 15 finished, 4 pruned, 1 diverged`."""
    told = [f"{count} {status}" for status in STATUSES if (count := search.count(status))]
    return f"{search.name}: trials: {', '.join(told) or 'none yet'}"


def table(search: SearchRecord) -> Table:
    """The best trials, the very best in bold."""
    drawn = Table(header_style="bold", box=SIMPLE_HEAD)
    for heading in ("trial", *search.space, "validation error %"):
        drawn.add_column(heading, justify="right")
    for place, trial in enumerate(search.ranked()[:_SHOWN]):
        values = [word.partition("=")[2] for word in words(trial.parameters)]
        cells = [str(trial.number), *values, mean(Mean.of(trial.errors), ".2f")]
        drawn.add_row(*(Text(cell) for cell in cells), style="" if place else "bold")
    return drawn
