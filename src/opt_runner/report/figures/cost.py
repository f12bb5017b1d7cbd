"""Test error against what it costs: time, and numbers that train."""

from matplotlib.figure import Figure

from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.panels import draw_panels
from opt_runner.report.figures.scatter import NOTE, Quantity, of_results, scatter_panel

SHOWS = "Test error against time and numbers that train"


def draw(table: Comparison) -> Figure | None:
    """None where there is no test error, or one row alone."""
    if sum(bool(row.values("test_error")) for row in table.rows) < 2:
        return None
    errors = of_results(table, "test_error", "test error, %")
    seconds = [
        {seed: 1000 / rate for seed, rate in row.values("images_per_second").items() if rate}
        for row in table.rows
    ]
    time = Quantity("ms an image in training, log scale", seconds, logarithmic=True)
    numbers = [row.values("trainable_parameters") for row in table.rows]
    trained = Quantity("numbers that train, log scale", numbers, logarithmic=True)
    every = [scatter_panel(table, cost, errors) for cost in (time, trained)]
    panels = [panel for panel in every if panel is not None]
    return draw_panels(table, NOTE, panels) if panels else None
