"""Panels side by side, with a line of panels for each family if there are many rows."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opt_runner.report.figures.canvas import drawing, entries, legend, prepare
from opt_runner.report.figures.view import View

_TOGETHER = 12  # the most rows in one panel, so that they do not hide each other
_LINE = 2.3  # inches, the height of a line of panels with so many names beside it


class Panel(NamedTuple):
    """A panel. draw: draws the rows at these places of the view, on axes that fit all rows."""

    title: str
    draw: Callable[[Axes, Collection[int]], None]


def draw_panels(view: View, note: str, panels: Sequence[Panel]) -> Figure:
    """Return a figure of these panels."""
    with drawing():
        if len(view.rows) > _TOGETHER:
            return _by_family(view, note, panels)
        figure: Figure = view.figure(note, 3.1)
        every = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(every, panels, strict=True):
            panel.draw(prepare(axes), range(len(view.rows)))
            axes.set_title(panel.title, loc="left")
        legend(figure, list(every))
    return figure


def _by_family(view: View, note: str, panels: Sequence[Panel]) -> Figure:
    """Draw plain training in all lines of panels. A large family has several lines."""
    members: dict[str, list[int]] = {}
    baseline = []
    for place, row in enumerate(view.rows):
        if row is view.table.baseline:
            baseline.append(place)
        else:
            members.setdefault(row.family, []).append(place)
    lines = [
        (family, places[start : start + _TOGETHER])
        for family, places in members.items()
        for start in range(0, len(places), _TOGETHER)
    ]
    figure: Figure = view.figure(note, _LINE * len(lines))
    grid = figure.subplots(len(lines), len(panels), sharex="col", sharey="col", squeeze=False)
    for (family, places), line in zip(lines, grid, strict=True):
        for axes, panel in zip(line, panels, strict=True):
            panel.draw(prepare(axes), [*baseline, *places])
            axes.set_title(f"{family}: {panel.title}", loc="left")
            axes.tick_params(labelbottom=True, labelleft=True)
        line[-1].legend(
            *entries(line), loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False,
            handlelength=3.2, fontsize=8,
        )  # fmt: skip
    for axes in grid[:-1].flat:
        axes.set_xlabel("")
    return figure
