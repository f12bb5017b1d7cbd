"""Hyperspherical energy against steps: what OPT keeps, and plain training does not."""

from matplotlib.figure import Figure

from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.lines import (
    Metrics,
    draw_lines,
    is_number,
    lines,
    over_seeds,
    shown,
)
from opt_runner.report.figures.style import drawing, legend, new_figure

SHOWS = "Hyperspherical energy against steps"
# In percent. Less is the rounding of float32, which an axis of its own would make look like change.
_LEAST_CHANGE = 0.01


def draw(table: Comparison) -> Figure | None:
    """Its change from the start in percent, summed over layers."""
    changes = lines(table, _change)
    if not changes:
        return None
    with drawing():
        figure = new_figure(table, over_seeds(changes), 2.9)
        axes = figure.subplots()
        draw_lines(axes, changes, ends="{:+z.3f}%")
        low = min(-_LEAST_CHANGE, *(min(line.low) for line in shown(changes)))
        high = max(_LEAST_CHANGE, *(max(line.high) for line in shown(changes)))
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:+.4g}" if value else "0")
        axes.set_title("change of the hyperspherical energy, %", loc="left")
        legend(figure, [axes])
    return figure


def _change(metrics: Metrics) -> dict[int, float]:
    """In percent by step; empty where the energy at step 0 is not known."""
    sums = {}
    for row in metrics:
        layers = row.get("energy")
        if isinstance(layers, dict) and layers and all(map(is_number, layers.values())):
            sums[row["step"]] = sum(layers.values())
    start = sums.get(0)
    return {step: 100 * (value / start - 1) for step, value in sums.items()} if start else {}
