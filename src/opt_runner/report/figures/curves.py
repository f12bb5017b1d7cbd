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
from opt_runner.report.figures.style import (
    QUIET,
    drawing,
    legend,
    make_logarithmic,
    new_figure,
    words,
)

SHOWS = "Test or validation error and train loss against steps"

Panel = tuple[str, list[Line]]  # with its name

# More lines than this in a panel cannot be told apart: then each family has panels of its own.
_MOST_LINES = 12


def draw(table: Comparison) -> Figure | None:
    """None where nothing is known along the way: a number at the end alone is no curve."""
    validation = lines(table, partial(column, "validation_error"))
    errors = validation or lines(table, partial(column, "test_error"))
    losses = lines(table, partial(column, "train_loss"))
    both = (f"{'validation' if validation else 'test'} error, %", errors), ("train loss", losses)
    panels = [(name, of) for name, of in both if any(len(line.steps) > 1 for line in of)]
    if not panels:
        return None
    if len(table.rows) > _MOST_LINES:
        return _draw_families(table, panels)
    with drawing():
        figure = new_figure(table, over_seeds(_lines(panels)), 3.1)
        every_axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (name, of_rows) in zip(every_axes, panels, strict=True):
            draw_lines(axes, of_rows)
            logarithmic = make_logarithmic_if_wide(axes, of_rows)
            axes.set_title(name + (", log scale" if logarithmic else ""), loc="left")
        legend(figure, list(every_axes))
    return figure


def _lines(panels: Sequence[Panel]) -> list[Line]:
    return [line for _, of_panel in panels for line in of_panel]


def _draw_families(table: Comparison, panels: Sequence[Panel]) -> Figure:
    """The panels for each family, on the same axes; plain training is in all of them."""
    baseline = table.baseline
    families = dict.fromkeys(row.family for row in table.rows if row is not baseline)
    with drawing():
        figure = new_figure(table, over_seeds(_lines(panels)), 2.3 * len(families))
        grid = figure.subplots(len(families), len(panels), sharex=True, squeeze=False)
        for family, in_row in zip(families, grid, strict=True):
            for axes, (name, every) in zip(in_row, panels, strict=True):
                of_family = [
                    line
                    for line in every
                    if line.family == family or (baseline and line.label == words(baseline.label))
                ]
                draw_lines(axes, of_family)
                logarithmic = make_logarithmic_if_wide(axes, every)
                title = f"{family}: {name}" + (", log scale" if logarithmic else "")
                axes.set_title(title, loc="left")
                axes.set_xlabel("")
            entries = {
                label: handle
                for axes in in_row
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
            }
            in_row[-1].legend(
                list(entries.values()), list(entries), loc="upper left",
                bbox_to_anchor=(1.0, 1.0), frameon=False, handlelength=3.2, fontsize=8,
            )  # fmt: skip
        for axes in grid[-1]:
            axes.set_xlabel("step", color=QUIET)
        grid[0, 0].set_xlim(0, 1.02 * max(line.steps[-1] for line in _lines(panels)))
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
