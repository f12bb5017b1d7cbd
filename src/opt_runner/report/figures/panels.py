"""Panels side by side; of many rows a line of panels for each family, so that they can be told
apart."""

from collections.abc import Callable, Collection, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.style import drawing, legend, new_figure

# Draws the rows of these places in the table, on axes with room for all; returns the title.
Panel = Callable[[Axes, Collection[int]], str]

_MOST_ROWS = 12
_LINE = 2.3  # inches, the height of a line of panels with so many names beside it


def draw_panels(table: Comparison, note: str, panels: Sequence[Panel]) -> Figure:
    with drawing():
        if are_many(table):
            return _by_family(table, note, panels)
        figure = new_figure(table, note, 3.1)
        every = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(every, panels, strict=True):
            axes.set_title(panel(axes, range(len(table.rows))), loc="left")
        legend(figure, list(every))
    return figure


def are_many(table: Comparison) -> bool:
    """Whether the rows would hide each other in one panel."""
    return len(table.rows) > _MOST_ROWS


def _by_family(table: Comparison, note: str, panels: Sequence[Panel]) -> Figure:
    """Plain training is in all of them. A large family has several lines of panels."""
    members: dict[str, list[int]] = {}
    for place, row in enumerate(table.rows):
        if row is not table.baseline:
            members.setdefault(row.family, []).append(place)
    in_lines = [
        (family, of_family[start : start + _MOST_ROWS])
        for family, of_family in members.items()
        for start in range(0, len(of_family), _MOST_ROWS)
    ]
    baseline = [place for place, row in enumerate(table.rows) if row is table.baseline]
    figure = new_figure(table, note, _LINE * len(in_lines))
    grid = figure.subplots(len(in_lines), len(panels), sharex="col", sharey="col", squeeze=False)
    for (family, places), in_line in zip(in_lines, grid, strict=True):
        for axes, panel in zip(in_line, panels, strict=True):
            title = panel(axes, [*baseline, *places])
            axes.set_title(f"{family}: {title}", loc="left")
            axes.tick_params(labelbottom=True, labelleft=True)
        _name(in_line)
    for axes in grid[:-1].flat:
        axes.set_xlabel("")
    return figure


def _name(in_line: Sequence[Axes]) -> None:
    """Each row's label, right of the line of panels."""
    entries = {
        label: handle
        for axes in in_line
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    in_line[-1].legend(
        list(entries.values()), list(entries), loc="upper left", bbox_to_anchor=(1.0, 1.0),
        frameon=False, handlelength=3.2, fontsize=8,
    )  # fmt: skip
