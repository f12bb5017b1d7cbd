"""Test error against train error, and how well the network knows what it does not know."""

import math
from collections.abc import Collection

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.panels import Panel, draw_panels
from opt_runner.report.figures.scatter import NOTE, of_results, scatter_panel

SHOWS = "Test error against train error, and calibration"


def draw(table: Comparison) -> Figure | None:
    """None where no record tells both errors."""
    errors = scatter_panel(
        table,
        of_results(table, "train_error", "train error, %"),
        of_results(table, "test_error", "test error, %"),
    )
    if errors is None:
        return None
    calibration = scatter_panel(
        table,
        of_results(table, "test_nll", "negative log-likelihood of the test labels"),
        of_results(table, "calibration_error", "calibration error, %"),
    )
    note = f"{NOTE}; along a grey line the gap is the same"
    panels = [_with_equal_gaps(errors), *([calibration] if calibration else [])]
    return draw_panels(table, note, panels)


def _with_equal_gaps(panel: Panel) -> Panel:
    def draw(axes: Axes, places: Collection[int]) -> str:
        title = panel(axes, places)
        _draw_equal_gaps(axes)
        return title

    return draw


def _draw_equal_gaps(axes: Axes) -> None:
    """Lines test error = train error + gap."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    step = max(1.0, round((high - low + right - left) / 8))
    lowest = math.floor((low - right) / step) * step
    for number in range(math.ceil((high - left - lowest) / step)):
        gap = lowest + number * step
        if low - right < gap:
            axes.plot([left, right], [left + gap, right + gap], color="#cccccc", linewidth=0.8,
                      zorder=0)  # fmt: skip
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
