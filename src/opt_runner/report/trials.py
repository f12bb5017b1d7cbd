"""Searches in the terminal: the numbers of their trials, and the best ones."""

from collections.abc import Sequence
from statistics import median

from rich.table import Table

from opt_runner.records.search import STATUSES, SearchRecord, words
from opt_runner.report.columns import NOTHING, mean
from opt_runner.report.statistics import Mean
from opt_runner.report.terminal import grid, text

_SHOWN = 10


def counts(search: SearchRecord) -> str:
    """Return `search-1a2b3c4d: trials: 15 finished, 4 pruned, 1 diverged`."""
    every = [f"{count} {status}" for status in STATUSES if (count := search.count(status))]
    return f"{search.name}: trials: {', '.join(every) or 'none yet'}"


def settings(searches: Sequence[SearchRecord]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and a row for each entrant: the origin of its setting.

    best, median, worst: validation errors of the trials that finished.
    """
    rows = []
    for search in searches:
        ranked = search.ranked()
        errors = [trial.value for trial in ranked if trial.value is not None]
        spread = [
            f"{f(errors):{search.measure.form}}" if errors else NOTHING for f in (min, median, max)
        ]
        best = " ".join(words(ranked[0].parameters)) if ranked else NOTHING
        rows.append([search.label, str(len(ranked)), *spread, str(search.count("diverged")), best])
    return ["entrant", "trials", "best", "median", "worst", "diverged", "best setting"], rows


def settings_table(searches: Sequence[SearchRecord]) -> Table:
    """Return the table of `settings`."""
    drawn = grid(f"{searches[0].name}: {searches[0].measure.axis('validation')}, of the searches")
    headings, rows = settings(searches)
    for heading in headings:
        wraps = heading in ("entrant", "best setting")
        drawn.add_column(heading, justify="left" if wraps else "right", no_wrap=not wraps)
    for row in rows:
        drawn.add_row(*map(text, row))
    return drawn


def ranking(search: SearchRecord) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of the best trials, the very best first."""
    rows = []
    for trial in search.ranked()[:_SHOWN]:
        values = [word.partition("=")[2] for word in words(trial.parameters)]
        error = mean(Mean.of(trial.errors), search.measure.form)
        rows.append([str(trial.number), *values, error])
    return ["trial", *search.space, search.measure.heading("validation")], rows


def table(search: SearchRecord) -> Table:
    """Return the table of `ranking`, with the very best trial in bold."""
    drawn = grid()
    headings, rows = ranking(search)
    for heading in headings:
        drawn.add_column(text(heading), justify="right")
    for place, row in enumerate(rows):
        drawn.add_row(*map(text, row), style="" if place else "bold")
    return drawn
