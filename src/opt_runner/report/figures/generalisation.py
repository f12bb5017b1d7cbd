"""Test error against train error, and how well the network knows what it does not know."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.style import QUIET, drawing, legend, new_figure, prepare, styles

SHOWS = "Test error against train error, and calibration"


def draw(table: Comparison) -> Figure | None:
    """None where no record tells both errors."""
    if not any(row.values("train_error").keys() & row.values("test_error") for row in table.rows):
        return None
    with drawing():
        note = "large: mean over seeds; faint: the seeds; along a grey line the gap is the same"
        figure = new_figure(table, note, 3.4)
        left, right = figure.subplots(1, 2)
        _scatter(left, table, "train_error", "test_error")
        left.set_title("test error, %, against train error, %", loc="left")
        left.set_xlabel("train error, %", color=QUIET)
        _draw_equal_gaps(left)
        _scatter(right, table, "test_nll", "calibration_error")
        right.set_title("calibration error, %, against test NLL", loc="left")
        right.set_xlabel("negative log-likelihood of the test labels", color=QUIET)
        legend(figure, [left])
    return figure


def _scatter(axes: Axes, table: Comparison, x: str, y: str) -> None:
    prepare(axes)
    for row, style in zip(table.rows, styles(table), strict=True):
        xs, ys = row.values(x), row.values(y)
        seeds = sorted(xs.keys() & ys)
        if not seeds:
            continue
        look: dict[str, Any] = {"linestyle": "none", "color": style.colour, "marker": style.marker}
        if len(seeds) > 1:
            axes.plot(
                [xs[seed] for seed in seeds], [ys[seed] for seed in seeds],
                markersize=4, alpha=0.35, markeredgewidth=0, **look,
            )  # fmt: skip
        axes.plot(
            sum(xs[seed] for seed in seeds) / len(seeds),
            sum(ys[seed] for seed in seeds) / len(seeds),
            markersize=8, markeredgecolor="white", markeredgewidth=0.6, label=row.label, **look,
        )  # fmt: skip


def _draw_equal_gaps(axes: Axes) -> None:
    """Lines test error = train error + gap."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    step = max(1.0, round((high - low + right - left) / 8))
    for gap in range(0, 100, int(step)):
        if low - right < gap < high - left:
            axes.plot([left, right], [left + gap, right + gap], color="#cccccc", linewidth=0.8,
                      zorder=0)  # fmt: skip
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
