"""The pictures of a table: training curves, errors, cost, energy, angles."""

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from opt_runner.report.figures.angles import draw_angles
from opt_runner.report.figures.curves import draw_curves, draw_energy, draw_speed
from opt_runner.report.figures.dots import draw_dots
from opt_runner.report.figures.scatter import draw_cost, draw_generalisation
from opt_runner.report.figures.view import View


class Kind(NamedTuple):
    """A kind of picture. draw: None if there is nothing to draw. shows: its content in words."""

    draw: Callable[[View], Figure | None]
    shows: str


# By the name of their files, in the order of a page.
PICTURES = {
    "curves": Kind(draw_curves, "Test or validation error and train loss against steps"),
    "speed": Kind(draw_speed, "Train loss and error against seconds of training"),
    "dots": Kind(draw_dots, "Test errors with their 95% intervals"),
    "cost": Kind(draw_cost, "Test error against time and numbers that train"),
    "generalisation": Kind(draw_generalisation, "Test error against train error, and calibration"),
    "energy": Kind(
        draw_energy, "Change of the hyperspherical energy and of the largest cosine against steps"
    ),
    "angles": Kind(draw_angles, "Angles between neurons before and after training"),
}


def draw(view: View) -> dict[str, Figure]:
    """Return the pictures of a table by name, without those that have nothing to show."""
    figures = {name: kind.draw(view) for name, kind in PICTURES.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}
