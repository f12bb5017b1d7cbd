"""Test error, or the validation error where there is one, and train loss against steps."""

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opt_runner.report.comparison import Comparison, is_number
from opt_runner.report.figures.lines import (
    Line,
    Metrics,
    draw_lines,
    lines,
    over_seeds,
    shown,
)
from opt_runner.report.figures.style import drawing, legend, make_logarithmic, new_figure

SHOWS = "Test or validation error and train loss against steps"


def draw(table: Comparison) -> Figure | None:
    validation = lines(table, partial(column, "validation_error"))
    errors = validation or lines(table, partial(column, "test_error"))
    losses = lines(table, partial(column, "train_loss"))
    if not errors and not losses:
        return None
    with drawing():
        figure = new_figure(table, over_seeds(errors + losses), 3.1)
        left, right = figure.subplots(1, 2)
        for axes, of_rows, name in (
            (left, errors, f"{'validation' if validation else 'test'} error, %"),
            (right, losses, "train loss"),
        ):
            draw_lines(axes, of_rows)
            logarithmic = make_logarithmic_if_wide(axes, of_rows)
            axes.set_title(name + (", log scale" if logarithmic else ""), loc="left")
        legend(figure, [left, right])
    return figure


def column(name: str, metrics: Metrics) -> dict[int, float]:
    """A number of the rows that have it, by step."""
    return {row["step"]: row[name] for row in metrics if is_number(row.get(name))}


def make_logarithmic_if_wide(axes: Axes, lines: Sequence[Line]) -> bool:
    """Make the vertical axis logarithmic where the values, all at least 0, differ by a factor of 4.

    A first error of 90%, or a first loss, would flatten all else. A zero lies below such an axis.
    """
    values = [value for line in shown(lines) for value in (*line.low, *line.high) if value > 0]
    if not values or max(values) < 4 * min(values):
        return False
    make_logarithmic(axes, "y", values)
    return True
