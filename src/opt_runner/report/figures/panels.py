"""Panels side by side, with a line of panels for each family if there are many rows."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opt_runner.report.figures.canvas import drawing
from opt_runner.report.figures.view import View

_TOGETHER = 12  # the most rows in one panel, so that they do not hide each other
_LINE = 2.3  # inches, the height of a line of panels with so many names beside it
_ALONE = 3.1  # inches, the height of the only line


class Panel(NamedTuple):
    """A panel. draw: draws the rows at these places of the view, on axes that fit all rows."""

    title: str
    draw: Callable[[Axes, Collection[int]], None]


def draw_panels(view: View, note: str, panels: Sequence[Panel]) -> Figure:
    """Return a figure of these panels, with a legend beside each line."""
    lines = _lines(view)
    with drawing():
        figure: Figure = view.figure(note, _LINE * len(lines) if len(lines) > 1 else _ALONE)
        grid = figure.subplots(len(lines), len(panels), sharex="col", sharey="col", squeeze=False)
        for (family, places), line in zip(lines, grid, strict=True):
            found: dict[str, Artist] = {}
            for axes, panel in zip(line, panels, strict=True):
                panel.draw(axes, places)
                axes.set_title(family + panel.title)
                axes.tick_params(labelbottom=True, labelleft=True)
                handles, labels = axes.get_legend_handles_labels()
                found |= dict(zip(labels, handles, strict=True))
            line[-1].legend(
                [*found.values()], [*found], loc="upper left", bbox_to_anchor=(1.0, 1.0),
                frameon=False, handlelength=3.2, fontsize=8,
            )  # fmt: skip
        for axes in grid[:-1].flat:
            axes.set_xlabel("")
    return figure


def _lines(view: View) -> list[tuple[str, Sequence[int]]]:
    """Return the places of the rows in each line of panels, and how its titles begin.

    Plain training is in all lines. A large family has several.
    """
    if len(view.rows) <= _TOGETHER:
        return [("", range(len(view.rows)))]
    members: dict[str, list[int]] = {}
    baseline = []
    for place, row in enumerate(view.rows):
        if row is view.table.baseline:
            baseline.append(place)
        else:
            members.setdefault(row.family, []).append(place)
    return [
        (f"{family}: ", [*baseline, *places[start : start + _TOGETHER]])
        for family, places in members.items()
        for start in range(0, len(places), _TOGETHER)
    ]
