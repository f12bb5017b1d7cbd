"""The pictures of a table, one file each: training curves, errors, cost, energy, angles."""

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from opt_runner.report.comparison import Comparison
from opt_runner.report.figures import angles, cost, curves, dots, energy, generalisation, speed


class Picture(NamedTuple):
    """draw: returns None where the records hold nothing to draw. shows: what it shows, in words."""

    draw: Callable[[Comparison], Figure | None]
    shows: str


# By name, which its files have, in the order of a page.
PICTURES = {
    "curves": Picture(curves.draw, curves.SHOWS),
    "speed": Picture(speed.draw, speed.SHOWS),
    "dots": Picture(dots.draw, dots.SHOWS),
    "cost": Picture(cost.draw, cost.SHOWS),
    "generalisation": Picture(generalisation.draw, generalisation.SHOWS),
    "energy": Picture(energy.draw, energy.SHOWS),
    "angles": Picture(angles.draw, angles.SHOWS),
}


def draw(table: Comparison) -> dict[str, Figure]:
    """The pictures of a table by name, without those for which its records hold nothing."""
    figures = {name: picture.draw(table) for name, picture in PICTURES.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}
