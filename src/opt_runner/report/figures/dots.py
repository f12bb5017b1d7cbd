"""Mean test errors with 95% intervals, and the seeds, of one table or under several conditions."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opt_runner.report.columns import finished
from opt_runner.report.comparison import Comparison, TableRow, is_number
from opt_runner.report.figures.canvas import QUIET, drawing, new_figure, shared_grid, wrapped
from opt_runner.report.figures.style import Style, styles
from opt_runner.report.figures.view import MOST_ROWS, View, over_seeds
from opt_runner.report.statistics import Difference

CONDITIONS = "Test errors with fewer training images, and with wrong labels"
_KEYS = {"dataset.share": 1.0, "dataset.label_noise": 0.0}  # with the values of a plain table
_PLAIN = (0.0, -1.0)
_BAND = "line: its 95% interval (Student's t); faint: the seeds"
_ACROSS = 3


def draw_dots(view: View) -> Figure | None:
    """Draw the test errors of a table, with a line at the mean of `standard`."""
    errors = view.values("test_error")
    if not any(errors):
        return None
    with drawing():
        counts = [len(one) for one in errors if one]
        note = f"{view.measure.axis('test')}: {over_seeds(counts, _BAND)}"
        figure: Figure = view.figure(note, 0.8 + 0.27 * len(view.rows))
        (axes,) = shared_grid(figure, 1, 1)
        _draw(axes, view.table, {row.label: row for row in view.rows}, view.styles)
        for place, (row, values) in enumerate(zip(view.rows, errors, strict=True)):
            if not values:
                axes.text(
                    0.01, place, wrapped(finished(view.table, row), 80),
                    transform=axes.get_yaxis_transform(), color=QUIET, va="center",
                )  # fmt: skip
    return figure


def families(tables: Sequence[Comparison]) -> list[list[Comparison]]:
    """Return the tables to draw together, the one without a condition first.

    A condition may change other keys, too: if one table of a dataset and a network is without a
    condition, all of them belong to it.
    """
    found: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    for table in tables:
        known = all(is_number(condition) for condition in _place(table))
        if known and any(row.values("test_error") for row in table.rows):
            found[table.dataset, table.model].append(table)
    drawn = []
    for group in found.values():
        alike: dict[str, list[Comparison]] = defaultdict(list)
        one = [_place(table) for table in group].count(_PLAIN) == 1
        for table in group:
            alike["" if one else repr(sorted(_others(table).items()))].append(table)
        drawn += [sorted(family, key=_place) for family in alike.values()]
    return [family for family in drawn if len({_place(table) for table in family}) > 1]


def draw_conditions(tables: Sequence[Comparison]) -> Figure:
    """Draw a panel for each condition, with the same methods in all."""
    views = [View(table) for table in tables]
    rows = {row.label: row for view in views for row in view.rows}
    rows = dict(list(rows.items())[:MOST_ROWS])
    counts = [len(errors) for view in views for errors in view.values("test_error") if errors]
    lines = -(-len(tables) // _ACROSS)
    with drawing():
        note = f"{views[0].measure.axis('test')}: {over_seeds(counts, _BAND)}; dashed: standard"
        title = f"{tables[0].dataset}, {tables[0].model}"
        figure = new_figure(title, note, lines * (0.8 + 0.27 * len(rows)))
        grid = shared_grid(figure, len(tables), min(_ACROSS, len(tables)), sharex=False)
        for axes, table in zip(grid, tables, strict=True):
            own = {row.label: row for row in table.rows}
            _draw(axes, table, {label: own.get(label) for label in rows}, styles([*rows.values()]))
            axes.set_title(_condition(table, tables[0]))
    return figure


def _draw(
    axes: Axes, table: Comparison, rows: dict[str, TableRow | None], looks: Sequence[Style]
) -> None:
    """Draw a line for each row, with its label, if the table has it."""
    errors = [[*row.values("test_error").values()] if row else [] for row in rows.values()]
    # The interval of a mean is that of its difference to zero.
    means = [
        Difference.paired(dict(enumerate(seeds)), dict.fromkeys(range(len(seeds)), 0.0))
        for seeds in errors
    ]
    axes.set_yticks(range(len(rows)), [wrapped(label) for label in rows], color="black")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if plain := table.baseline and table.baseline.mean("test_error"):
        axes.axvline(plain.mean, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
    for place, (seeds, mean, look) in enumerate(zip(errors, means, looks, strict=True)):
        if mean is None:
            continue
        if len(seeds) > 1:
            axes.plot(
                sorted(seeds), [place + 0.24] * len(seeds), "o", markersize=3.5,
                color=look.colour, alpha=0.5, markeredgewidth=0,
            )  # fmt: skip
        if mean.low is not None and mean.high is not None:
            axes.plot(
                [mean.low, mean.high], [place, place], color=look.colour, linewidth=1.4,
                marker="|", markersize=7, markeredgewidth=1.4,
            )  # fmt: skip
        axes.plot(
            mean.mean, place, look.marker, markersize=7, color=look.colour,
            markeredgecolor="white", markeredgewidth=0.6,
        )  # fmt: skip
    every = [error for seeds in errors for error in seeds]
    if every:
        axes.set_xlim(*_limits(every, [mean for mean in means if mean]))
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _limits(seeds: Sequence[float], means: Sequence[Difference]) -> tuple[float, float]:
    """Return limits with all seeds, and with the intervals unless they are far wider.

    The interval of two seeds is 18 times as wide as their distance; shown whole it would flatten
    everything else.
    """
    low, high = min(seeds), max(seeds)
    most = 1.5 * (high - low) or 0.1 * abs(high) or 1.0
    left = max(min([low, *(m.low for m in means if m.low is not None)]), low - most)
    right = min(max([high, *(m.high for m in means if m.high is not None)]), high + most)
    edge = 0.04 * (right - left) or 0.1 * most
    return max(left - edge, -edge / 2), right + edge  # an error is not below zero


def _place(table: Comparison) -> tuple[float, float]:
    """Return the noise, and the share of the images, the largest first."""
    keys = table.rows[0].runs[0].table_keys  # also what all tables share
    share, noise = (keys.get(key, plain) for key, plain in _KEYS.items())
    return (noise, -share) if is_number(share) else (noise, share)


def _others(table: Comparison) -> dict[str, Any]:
    return {key: value for key, value in table.differs.items() if key not in _KEYS}


def _condition(table: Comparison, first: Comparison) -> str:
    noise, share = _place(table)
    found = [f"{-share:.0%} of the images"] if share != -1 else []
    found += [f"{noise:.0%} wrong labels"] if noise else []
    usual = _others(first)
    found += [f"{key}={value}" for key, value in _others(table).items() if value != usual.get(key)]
    return ",\n".join(found) or "all images"
