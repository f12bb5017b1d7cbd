"""Test error, or the validation error where there is one, and train loss against steps."""

from functools import partial

from matplotlib.figure import Figure

from opt_runner.report.comparison import Comparison, is_number
from opt_runner.report.figures.lines import Metrics, line_panel, lines, over_seeds
from opt_runner.report.figures.panels import draw_panels

SHOWS = "Test or validation error and train loss against steps"


def draw(table: Comparison) -> Figure | None:
    """None where nothing is known along the way: a number at the end alone is no curve."""
    validation = lines(table, partial(column, "validation_error"))
    errors = validation or lines(table, partial(column, "test_error"))
    losses = lines(table, partial(column, "train_loss"))
    both = (f"{'validation' if validation else 'test'} error, %", errors), ("train loss", losses)
    panels = [(name, of) for name, of in both if any(len(line.steps) > 1 for line in of)]
    if not panels:
        return None
    note = over_seeds([line for _, of_panel in panels for line in of_panel])
    return draw_panels(table, note, [line_panel(name, of) for name, of in panels])


def column(name: str, metrics: Metrics) -> dict[int, float]:
    """A number of the rows that have it, by step."""
    return {row["step"]: row[name] for row in metrics if is_number(row.get(name))}
