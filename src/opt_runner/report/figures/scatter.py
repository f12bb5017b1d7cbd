"""Scatter plots of two numbers of the results: means over seeds, and the seeds."""

import math
from collections.abc import Callable, Collection, Sequence
from statistics import fmean, quantiles
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from opt_runner.report.figures.canvas import make_logarithmic, wrapped
from opt_runner.report.figures.panels import Panel, draw_panels
from opt_runner.report.figures.view import View

_NOTE = "large: mean over seeds, hollow at the edge if it lies beyond; faint: the seeds"
# A mean above this multiple of the upper quartile is drawn hollow at the edge, because one failed
# row would flatten all others.
_FAR = 3.0
_THOUSAND = 1000


class Quantity(NamedTuple):
    """A number of the results. title: of its axis. values: for each row of the view, by seed."""

    title: str
    values: Sequence[dict[int, float]]
    logarithmic: bool = False


def draw_cost(view: View) -> Figure | None:
    """Draw the test error against what it costs; None if fewer than two rows have one."""
    errors = view.values("test_error")
    if sum(map(bool, errors)) < 2:
        return None
    test = Quantity(view.measure.axis("test"), errors)
    seconds = [
        {seed: 1000 / rate for seed, rate in rates.items() if rate > 0}
        for rates in view.values("samples_per_second")
    ]
    numbers = [
        {seed: n for seed, n in of_row.items() if n > 0}
        for of_row in view.values("trainable_parameters")
    ]
    time = Quantity("ms a sample in training, log scale", seconds, logarithmic=True)
    trained = Quantity("numbers that train, log scale", numbers, logarithmic=True)
    panels = [panel for x in (time, trained) if (panel := _panel(view, x, test))]
    return draw_panels(view, _NOTE, panels) if panels else None


def draw_generalisation(view: View) -> Figure | None:
    """Draw test error against train error, and calibration; None if no row has both errors."""
    train, test, nll, calibration = (
        Quantity(title, view.values(name))
        for name, title in (
            ("train_error", view.measure.axis("train")),
            ("test_error", view.measure.axis("test")),
            ("nll", "negative log-likelihood of the test labels"),
            ("calibration_error", "calibration error, %"),
        )
    )
    errors = _panel(view, train, test, _draw_equal_gaps)
    if errors is None:
        return None
    other = _panel(view, nll, calibration)
    note = f"{_NOTE}; along a grey line the gap is the same"
    return draw_panels(view, note, [errors, other] if other else [errors])


def _panel(
    view: View, x: Quantity, y: Quantity, behind: Callable[[Axes], None] | None = None
) -> Panel | None:
    """Return a panel with a mark for each row that has both, or None. behind: draws on its axes."""
    points = {
        place: ([xs[seed] for seed in seeds], [ys[seed] for seed in seeds])
        for place, (xs, ys) in enumerate(zip(x.values, y.values, strict=True))
        if (seeds := sorted(xs.keys() & ys))
    }
    if not points:
        return None
    means = {place: (fmean(xs), fmean(ys)) for place, (xs, ys) in points.items()}
    high_x, high_y = (_highest(q, [m[i] for m in means.values()]) for i, q in enumerate((x, y)))
    each = [pair for xs, ys in points.values() for pair in zip(xs, ys, strict=True)]
    near = [(a, b) for a, b in each if a <= 1.25 * high_x and b <= 1.25 * high_y]
    near += [(min(a, high_x), min(b, high_y)) for a, b in means.values()]

    def draw(axes: Axes, places: Collection[int]) -> None:
        axes.set_xlabel(x.title)
        for place in (place for place in places if place in points):
            colour, marker = view.styles[place].colour, view.styles[place].marker
            if len(points[place][0]) > 1:
                axes.plot(*points[place], marker, color=colour, markersize=4, alpha=0.35,
                          markeredgewidth=0)  # fmt: skip
            mean_x, mean_y = means[place]
            look: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.6}
            if mean_x > high_x or mean_y > high_y:
                look = {"fillstyle": "none", "markeredgewidth": 1.5}
            axes.plot(
                min(mean_x, high_x), min(mean_y, high_y), marker, color=colour, markersize=8,
                label=wrapped(view.rows[place].label), **look,
            )  # fmt: skip
        _set_limits(axes, "x", x, [a for a, _ in near])
        _set_limits(axes, "y", y, [b for _, b in near])
        if behind:
            behind(axes)

    return Panel(y.title, draw)


def _highest(quantity: Quantity, means: Sequence[float]) -> float:
    """Return the highest mean that is shown."""
    positive = [mean for mean in means if mean > 0]
    if quantity.logarithmic or len(positive) < 3:
        return max(means)
    limit = _FAR * quantiles(positive, n=4, method="inclusive")[2]
    return max(mean for mean in means if mean <= limit)


def _set_limits(axes: Axes, name: Literal["x", "y"], of: Quantity, shown: list[float]) -> None:
    if of.logarithmic:
        make_logarithmic(axes, name, shown, narrow=True)
        if max(shown) >= _THOUSAND:
            axis = axes.xaxis if name == "x" else axes.yaxis
            axis.set_major_formatter(EngFormatter(sep=""))
        return
    edge = 0.06 * (max(shown) - min(shown)) or 0.1 * abs(max(shown))
    # Where all are 0: no error is below 0, and no tick should be.
    limits = (min(shown) - edge, max(shown) + edge) if edge else (-0.05, 1.0)
    axes.set(**{f"{name}lim": limits})


def _draw_equal_gaps(axes: Axes) -> None:
    """Draw lines test error = train error + gap."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    # About eight lines, whatever the unit: bits per character differ by hundredths.
    step = float(f"{(high - low + right - left) / 8:.1g}")
    for number in range(math.floor((low - right) / step) + 1, math.ceil((high - left) / step)):
        gap = number * step
        axes.plot([left, right], [left + gap, right + gap], color="#cccccc", linewidth=0.8,
                  zorder=0)  # fmt: skip
    axes.set(xlim=(left, right), ylim=(low, high))
