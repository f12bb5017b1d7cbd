"""Angles between the neurons of a layer before and after training; a panel a row."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from opt_runner.geometry import ANGLE_BINS
from opt_runner.report.comparison import Comparison, Row
from opt_runner.report.figures.style import QUIET, drawing, new_figure, prepare, words

SHOWS = "Angles between neurons before and after training"
_NOTE = (
    "angles between neurons, % of pairs; light: before, line: after training; "
    "text: share that changed"
)


def draw(table: Comparison) -> Figure | None:
    rows = [(row, found) for row in table.rows if (found := _percent_by_bin(row))]
    used = [
        k for _, pair in rows for percents in pair for k, share in enumerate(percents) if share > 0
    ]
    if not used:
        return None
    edges = [180 / ANGLE_BINS * k for k in range(ANGLE_BINS + 1)]
    columns = min(4, len(rows))
    lines = math.ceil(len(rows) / columns)
    with drawing():
        figure = new_figure(table, _NOTE, 0.9 + 1.55 * lines)
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(rows) :]:
            axes.remove()
        for place, (axes, (row, (before, after))) in enumerate(zip(grid.flat, rows, strict=False)):
            prepare(axes)
            axes.stairs(before, edges, fill=True, color="#A9CCE8")
            axes.stairs(after, edges, color="#1A1A1A", linewidth=1.1)
            axes.set_title(words(row.label, 20), loc="left")
            moved = sum(abs(a - b) for a, b in zip(before, after, strict=True)) / 2
            axes.text(
                0.03, 0.96, f"changed\n{moved:.2f}%",
                transform=axes.transAxes, color=QUIET, va="top", fontsize=8,
            )  # fmt: skip
            if place + columns >= len(rows):  # nothing stands below it
                axes.tick_params(labelbottom=True)
        left, right = edges[max(0, min(used) - 1)], edges[min(ANGLE_BINS, max(used) + 2)]
        grid[0, 0].set_xlim(left, right)
        grid[0, 0].xaxis.set_major_locator(MultipleLocator(30 if right - left > 60 else 10))
        grid[0, 0].xaxis.set_major_formatter(lambda value, _: f"{value:g}°")
        grid[0, 0].set_ylim(bottom=0)
    return figure


def _percent_by_bin(row: Row) -> tuple[list[float], list[float]] | None:
    """Percent of pairs before and after, over the seeds that have both."""
    pairs = [
        (result.start.angles, result.end.angles)
        for result in row.finished.values()
        if result.start and result.end
    ]
    known = [(a, b) for a, b in pairs if a and b and len(a) == len(b) == ANGLE_BINS]
    if not known:
        return None
    return _percent([a for a, _ in known]), _percent([b for _, b in known])


def _percent(histograms: Sequence[Sequence[int]]) -> list[float]:
    """Of their sum; zeros where that is empty."""
    counts = [sum(of_bin) for of_bin in zip(*histograms, strict=True)]
    return [100 * n / (sum(counts) or 1) for n in counts]
