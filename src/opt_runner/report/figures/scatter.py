"""One number of a row's results against another: the means over seeds, and the seeds."""

from collections.abc import Collection
from statistics import fmean, quantiles
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.panels import Panel
from opt_runner.report.figures.style import QUIET, make_logarithmic, prepare, styles, words

NOTE = "large: mean over seeds; faint: the seeds"

# Rows whose mean is so many times the upper quartile of all lie outside of the picture, and are
# named in it: one that has failed would flatten all others.
_FAR = 3.0
_THOUSAND = 1000


class Quantity(NamedTuple):
    """title: stands at its axis. values: by row of the table, then by seed."""

    title: str
    values: list[dict[int, float]]
    logarithmic: bool = False


def of_results(table: Comparison, name: str, title: str) -> Quantity:
    """A field of the results, all finished runs."""
    return Quantity(title, [row.values(name) for row in table.rows])


def scatter_panel(table: Comparison, x: Quantity, y: Quantity) -> Panel | None:
    """A panel with a mark for each row that has both; None where there is none."""
    both = [sorted(xs.keys() & ys) for xs, ys in zip(x.values, y.values, strict=True)]
    if not any(both):
        return None
    high_x, high_y = _highest(x, both), _highest(y, both)

    def draw(axes: Axes, places: Collection[int]) -> str:
        prepare(axes)
        axes.set_xlabel(x.title, color=QUIET)
        outside = []
        for place, (row, style) in enumerate(zip(table.rows, styles(table), strict=True)):
            seeds = both[place]
            if place not in places or not seeds:
                continue
            xs = [x.values[place][seed] for seed in seeds]
            ys = [y.values[place][seed] for seed in seeds]
            if fmean(xs) > high_x or fmean(ys) > high_y:
                outside.append(f"{row.label}: {fmean(xs):.3g}, {fmean(ys):.3g}")
            _mark(axes, row.label, xs, ys, color=style.colour, marker=style.marker)
        _set_limits(axes, "x", x, high_x, both)
        _set_limits(axes, "y", y, high_y, both)
        if outside:
            text = axes.text(
                0.98, 0.97, words("outside: " + "; ".join(outside), 40),
                transform=axes.transAxes, ha="right", va="top", color=QUIET, fontsize=8,
            )  # fmt: skip
            text.set_in_layout(False)
        return y.title

    return draw


def _mark(axes: Axes, label: str, xs: list[float], ys: list[float], **look: Any) -> None:
    if len(xs) > 1:
        axes.plot(xs, ys, linestyle="none", markersize=4, alpha=0.35, markeredgewidth=0, **look)
    axes.plot(
        fmean(xs), fmean(ys), linestyle="none", markersize=8, markeredgecolor="white",
        markeredgewidth=0.6, label=label, **look,
    )  # fmt: skip


def _highest(quantity: Quantity, both: list[list[int]]) -> float:
    """The highest mean that is shown."""
    means = [
        fmean(values[seed] for seed in seeds)
        for values, seeds in zip(quantity.values, both, strict=True)
        if seeds
    ]
    positive = [mean for mean in means if mean > 0]
    if quantity.logarithmic or len(positive) < 3:
        return max(means, default=1.0)
    limit = _FAR * quantiles(positive, n=4, method="inclusive")[2]
    return max(mean for mean in means if mean <= limit)


def _set_limits(
    axes: Axes, name: Literal["x", "y"], quantity: Quantity, high: float, both: list[list[int]]
) -> None:
    shown = [
        of_row[seed]
        for of_row, seeds in zip(quantity.values, both, strict=True)
        for seed in seeds
        if of_row[seed] <= 1.25 * high
    ]
    if quantity.logarithmic:
        make_logarithmic(axes, name, shown, narrow=True)
        if high >= _THOUSAND:
            axis = axes.xaxis if name == "x" else axes.yaxis
            axis.set_major_formatter(EngFormatter(sep=""))
        return
    low, high = min(shown, default=0.0), max([high, *shown])
    edge = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set(**{f"{name}lim": (low - edge, high + edge)})
