"""What training does to the hyperspherical energy: nothing by OPT, something by plain training."""

from collections.abc import Collection, Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opt_runner.report.comparison import Comparison, Reduce, known_layers, reduced
from opt_runner.report.figures.lines import Line, Metrics, draw_lines, lines, over_seeds, shown
from opt_runner.report.figures.panels import Panel, are_many, draw_panels
from opt_runner.report.figures.style import drawing, legend, new_figure

SHOWS = "Change of the hyperspherical energy and of the largest cosine against steps"
# Smaller changes are the rounding of float32, which an axis of its own would make look large.
_LEAST_EXCESS = 0.05  # standard deviations
_LEAST_COSINE = 0.02


def draw(table: Comparison) -> Figure | None:
    """Draw the change of the energy excess and of the largest cosine.

    The change, as seeds start at different energies: their band would hide what training does.
    """
    excesses = lines(table, _excess_change)
    if not excesses:
        return None
    title = (
        "change of the energy excess (half-space), mean over layers, "
        "in standard deviations of random neurons"
    )
    return _draw(table, excesses, title)


def _draw(table: Comparison, of_rows: Sequence[Line], title: str) -> Figure:
    cosines = lines(table, _cosine_change)
    if are_many(table):
        both = [_panel("change of the energy", of_rows, _LEAST_EXCESS)]
        if cosines:
            both.append(_panel("change of the largest |cos|", cosines, _LEAST_COSINE))
        return draw_panels(table, f"{title}; {over_seeds(of_rows)}", both)
    with drawing():
        figure = new_figure(table, over_seeds(of_rows), 4.8 if cosines else 2.9)
        panels = figure.subplots(2 if cosines else 1, squeeze=False)[:, 0]
        draw_lines(panels[0], of_rows, ends="{:+z.3f}")
        _set_limits(panels[0], shown(of_rows), _LEAST_EXCESS)
        panels[0].set_title(title, loc="left")
        if cosines:
            draw_lines(panels[1], cosines)
            _set_limits(panels[1], shown(cosines), _LEAST_COSINE)
            panels[1].set_title(
                "change of the largest |cos| of two neurons of a layer, over layers", loc="left"
            )
        for axes in panels:
            axes.yaxis.set_major_formatter(_signed)
        legend(figure, [panels[0]])
    return figure


def _panel(title: str, lines: Sequence[Line], least: float) -> Panel:
    def draw(axes: Axes, places: Collection[int]) -> str:
        draw_lines(axes, [line for line in lines if line.place in places])
        _set_limits(axes, shown(lines), least)
        axes.yaxis.set_major_formatter(_signed)
        return title

    return draw


def _signed(value: float, _: object) -> str:
    return f"{value:+.4g}" if value else "0"


def _set_limits(axes: Axes, lines: Sequence[Line], least: float) -> None:
    low = min(-least, *(min(line.low) for line in lines))
    high = max(least, *(max(line.high) for line in lines))
    edge = 0.05 * (high - low)
    axes.set_ylim(low - edge, high + edge)


def _excess_change(metrics: Metrics) -> dict[int, float]:
    excess = _by_step(metrics, "half_space_excess", fmean)
    return {step: value - excess[0] for step, value in excess.items()}


def _cosine_change(metrics: Metrics) -> dict[int, float]:
    cosine = _by_step(metrics, "largest_cosine", max)
    return {step: value - cosine[0] for step, value in cosine.items()}


def _by_step(metrics: Metrics, name: str, reduce: Reduce) -> dict[int, float]:
    """One number of all layers, see `before_and_after`; empty where step 0 is not known."""
    values = {row["step"]: row.get(name) for row in metrics}
    layers = known_layers(values.get(0))
    found = {step: reduced(of_step, layers, reduce) for step, of_step in values.items()}
    return {step: value for step, value in found.items() if value is not None}
