"""Errors, loss, energy and cosines against steps, and errors and loss against seconds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from opt_runner.report.figures.canvas import make_logarithmic, spread
from opt_runner.report.figures.panels import Panel, draw_panels
from opt_runner.report.figures.view import Curve, View, over_seeds

# Smaller changes are rounding of float32, which must not fill an axis.
_LEAST = {"half_space_excess": 0.05, "largest_cosine": 0.02}
_FEW = 5  # seconds; with less, whole seconds are no good ticks


def draw_curves(view: View) -> Figure | None:
    """Draw the validation error, or else the test error, and the train loss against steps."""
    error = "validation_error" if view.curves.get("validation_error") else "test_error"
    return _draw(view, {name: view.curves.get(name, []) for name in (error, "train_loss")})


def draw_speed(view: View) -> Figure | None:
    """Draw train loss and errors against the seconds of training on the run's machine.

    A step is drawn at its seconds, the mean over seeds. For steps without seconds, as of
    evaluations, they are interpolated.
    """
    seconds = {curve.place: curve for curve in view.curves.get("seconds", [])}
    timed: dict[str, list[Curve]] = {}
    for name in ("train_loss", "validation_error", "test_error"):
        timed[name] = [
            against
            for curve in view.curves.get(name, [])
            if curve.place in seconds and len((against := _against(curve, seconds[curve.place])).x)
        ]
    return _draw(view, timed, "seconds of training")


def draw_energy(view: View) -> Figure | None:
    """Draw the change of the energy excess and of the largest cosine against steps."""
    if not view.curves.get("half_space_excess"):
        return None
    note = (
        "change by training of the half-space energy's excess (mean over layers, in standard "
        "deviations of random neurons) and of the largest |cos| of two neurons of a layer"
    )
    return _draw(view, {name: view.curves.get(name, []) for name in _LEAST}, note=note)


def _draw(
    view: View, quantities: Mapping[str, Sequence[Curve]], against: str = "step", note: str = ""
) -> Figure | None:
    """Draw a panel for each quantity that has more than a value at the end."""
    shown = {k: some for k, some in quantities.items() if any(len(c.x) > 1 for c in some)}
    if not shown:
        return None
    counts = {curve.seeds for some in shown.values() for curve in some}
    words = over_seeds(counts, "band: lowest to highest")
    panels = [_panel(view, name, some, against) for name, some in shown.items()]
    return draw_panels(view, f"{note}; {words}" if note else words, panels)


def _panel(view: View, name: str, every: Sequence[Curve], against: str) -> Panel:
    """Return a panel whose limits fit the curves of finished runs; other curves may leave it.

    Errors and losses that differ much have a logarithmic axis, because a first error of 90% would
    flatten all others. A zero is below such an axis.
    """
    title = view.title(name)
    least = _LEAST.get(name)
    roomy = [curve for curve in every if curve.finished] or every
    values = np.concatenate([of for curve in roomy for of in (curve.low, curve.high)])
    last = max(curve.x[-1] for curve in every)
    positive = [float(value) for value in values if value > 0]
    logarithmic = least is None and spread(positive)

    def draw(axes: Axes, places: Collection[int]) -> None:
        some = [curve for curve in every if curve.place in places]
        for number, curve in enumerate(some):
            style = view.styles[curve.place]
            axes.plot(
                curve.x, curve.mean, label=curve.label, color=style.colour, linewidth=style.width,
                linestyle=style.dashes, marker=style.marker, markersize=4.5, markeredgewidth=0,
                # Few markers, at other places for each curve, so that overlapping curves differ.
                markevery=(0.2 * number / len(some), 0.2),
            )  # fmt: skip
            if curve.seeds > 1:
                axes.fill_between(
                    curve.x, curve.low, curve.high, color=style.colour, alpha=0.16, linewidth=0
                )
        axes.set_xlabel(against)
        axes.set_xlim(0, 1.02 * last or 1)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=last >= _FEW))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        if logarithmic:
            make_logarithmic(axes, "y", positive)
        if least is not None:
            low, high = min(-least, values.min()), max(least, values.max())
            edge = 0.05 * (high - low)
            axes.set_ylim(low - edge, high + edge)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:+.4g}" if value else "0")

    return Panel(title + (", log scale" if logarithmic else ""), draw)


def _against(curve: Curve, seconds: Curve) -> Curve:
    """Return the curve with seconds for steps."""
    x = np.interp(curve.x, [0, *seconds.x], [0, *seconds.mean], right=np.nan)
    kept = ~np.isnan(x)
    return replace(
        curve, x=x[kept], mean=curve.mean[kept], low=curve.low[kept], high=curve.high[kept]
    )
