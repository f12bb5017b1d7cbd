"""Searches in the terminal: what became of their trials, and the best of them."""

from collections.abc import Sequence
from statistics import median

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


SETTINGS = ("entrant", "trials", "best %", "median %", "worst %", "diverged", "best setting")


def settings(searches: Sequence[SearchRecord]) -> list[list[str]]:
    """Where the setting of each entrant of a fair comparison came from: a row each, as SETTINGS.

    best, median, worst: validation errors of the trials that finished.
    """
    rows = []
    for search in searches:
        ranked = search.ranked()
        errors = [trial.value for trial in ranked if trial.value is not None]
        spread = [f"{f(errors):.2f}" if errors else "-" for f in (min, median, max)]
        best = " ".join(words(ranked[0].parameters)) if ranked else "-"
        rows.append([search.label, str(len(ranked)), *spread, str(search.count("diverged")), best])
    return rows


def settings_table(searches: Sequence[SearchRecord]) -> Table:
    drawn = Table(
        title=Text(f"{searches[0].name}: validation errors of the searches"),
        title_justify="left", header_style="bold", box=SIMPLE_HEAD,
    )  # fmt: skip
    for place, heading in enumerate(SETTINGS):
        words_ = place in (0, len(SETTINGS) - 1)
        drawn.add_column(heading, justify="left" if words_ else "right", no_wrap=not words_)
    for row in settings(searches):
        drawn.add_row(*map(Text, row))
    return drawn


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
