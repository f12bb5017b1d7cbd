"""Pictures of what grows with d: a line a method, both axes logarithmic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.optimize import isotonic_regression

from opt_runner.bench.one_layer import ROTATING
from opt_runner.methods import Method
from opt_runner.methods.sopt import StochasticOPT

_QUIET = "#666666"
_LABELS_AT = 1.06  # of the axes' width
_LABEL_DISTANCE = 0.055  # of the axes' height, at least


@dataclass(frozen=True)
class Line:
    """values: by d. exponent: that they grow by, or None where there are too few."""

    values: Mapping[int, float]
    exponent: float | None


def draw(lines: Mapping[str, Line], title: str, unit: str, stem: Path) -> list[Path]:
    """Write stem.png and stem.svg: OPT above, what it is compared with below, names at the right.

    lines: by the names of `ROTATING`; those without values are left out.
    """
    drawn = {name: line for name, line in lines.items() if line.values}
    sizes = sorted({d for line in drawn.values() for d in line.values})
    panels = {
        "OPT; dashed: S-OPT, a quarter of the rows": {
            name: line for name, line in drawn.items() if _method(name).family == "OPT"
        },
        "rivals and descendants": {
            name: line for name, line in drawn.items() if _method(name).family != "OPT"
        },
    }
    # Words stay words in the SVG: they can be searched.
    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 10}):
        picture = Figure(figsize=(8, 10), layout="constrained")
        picture.suptitle(title, x=0.01, ha="left")
        both: Sequence[Axes] = picture.subplots(2, sharex=True, sharey=True)
        for axes, (heading, of_panel) in zip(both, panels.items(), strict=True):
            axes.set_title(heading, loc="left", color=_QUIET, fontsize=10)
            _plot(axes, of_panel)
            _style(axes, sizes, unit)
        both[-1].set_xlabel("d, the layer's fan-in")
        for axes, of_panel in zip(both, panels.values(), strict=True):
            _label(axes, of_panel)  # now that the axes have their limits, which they share
        paths = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
        for path in paths:
            picture.savefig(path, dpi=200)
    return paths


def _method(name: str) -> Method:
    """Of sopt that of its inner map, whose colour it has, dashed."""
    method = ROTATING[name]
    return ROTATING[method.inner] if isinstance(method, StochasticOPT) else method


def _plot(axes: Axes, lines: Mapping[str, Line]) -> None:
    for name, line in lines.items():
        axes.plot(
            sorted(line.values),
            [line.values[d] for d in sorted(line.values)],
            color=_method(name).colour,
            linestyle=(0, (4, 2)) if isinstance(ROTATING[name], StochasticOPT) else "solid",
            linewidth=1.6,
            marker="o",
            markersize=3.5,
        )


def _style(axes: Axes, sizes: list[int], unit: str) -> None:
    axes.set(xscale="log", yscale="log", ylabel=unit)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, colors=_QUIET)


def _label(axes: Axes, lines: Mapping[str, Line]) -> None:
    """Each method's name and exponent at the right, in the lines' order, tied to its line's end."""
    ends = [(max(line.values), line.values[max(line.values)]) for line in lines.values()]
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = apart(to_axes.transform(ends)[:, 1], _LABEL_DISTANCE)
    for (name, line), end, height in zip(lines.items(), ends, heights, strict=True):
        growth = "" if line.exponent is None else f"   $d^{{\\,{line.exponent:.1f}}}$"
        axes.annotate(
            name + growth,
            xy=end,
            xytext=(_LABELS_AT, height),
            textcoords="axes fraction",
            color=_method(name).colour,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": _method(name).colour,
                "linewidth": 0.6,
                "alpha": 0.6,
                "relpos": (0, 0.5),  # the left end of the text
                "shrinkA": 1,
                "shrinkB": 4,
            },
        )


def apart(heights: np.ndarray, distance: float) -> np.ndarray:
    """The heights moved as little as it takes for neighbours to be `distance` apart.

    For ascending h, y minimises sum_i (y_i - h_i)^2 under y_{i+1} - y_i >= distance: isotonic
    regression in y_i - i distance.
    """
    order = np.argsort(heights, kind="stable")
    steps = distance * np.arange(len(heights))
    moved = np.empty_like(heights)
    moved[order] = isotonic_regression(heights[order] - steps).x + steps
    return moved
