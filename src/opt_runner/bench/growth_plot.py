"""The cost of a rotation over d: a line a method, both axes logarithmic, labels at the right."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from opt_runner.bench.curve import Curve
from opt_runner.report.figures.style import method_colours

_QUIET = "#666666"
_LABELS_AT = 1.06  # of the axes' width
_LABEL_DISTANCE = 0.05  # of the axes' height, at least


def draw(curves: Mapping[str, Curve], columns: int, device: str, folder: Path) -> list[Path]:
    """Write growth.png and growth.svg into `folder`; returns where they are."""
    # Words stay words in the SVG: they can be searched.
    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(8, 5.5), layout="constrained")
        axes = figure.subplots()
        drawn = {name: curve for name, curve in curves.items() if curve.costs}
        for name, curve in drawn.items():
            _line(axes, name, curve)
        _style(axes, sorted({d for curve in drawn.values() for d in curve.costs}))
        _label(axes, drawn)
        axes.set_title(
            f"One rotation, forward and backward, of a layer d × {columns}", loc="left", pad=22
        )
        axes.text(
            0, 1.02, f"{device}, float32; medians; dashed: S-OPT, a quarter of the rows",
            transform=axes.transAxes, color=_QUIET, fontsize=9, va="bottom",
        )  # fmt: skip
        paths = [folder / "growth.png", folder / "growth.svg"]
        for path in paths:
            figure.savefig(path, dpi=200)
    return paths


def _line(axes: Axes, name: str, curve: Curve) -> None:
    sizes = sorted(curve.costs)
    axes.plot(
        sizes,
        [1000 * curve.costs[d].median for d in sizes],
        color=_colour(name),
        linestyle=(0, (4, 2)) if name.startswith("sopt") else "solid",
        linewidth=1.6,
        marker="o",
        markersize=3.5,
    )


def _colour(name: str) -> str:
    # sopt has the colour of its inner map, and is dashed.
    return method_colours()[name.removeprefix("sopt (").removesuffix(")")]


def _style(axes: Axes, sizes: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_xlabel("d, the layer's fan-in")
    axes.set_ylabel("ms")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, colors=_QUIET)


def _label(axes: Axes, curves: Mapping[str, Curve]) -> None:
    """Each method's name and exponent at the right, in the lines' order, tied to its line's end."""
    ends = {name: (max(c.costs), 1000 * c.costs[max(c.costs)].median) for name, c in curves.items()}
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = {name: float(to_axes.transform(end)[1]) for name, end in ends.items()}
    for name, height in _apart(heights).items():
        exponent = curves[name].exponent()
        growth = "" if exponent is None else f"   $d^{{\\,{exponent:.1f}}}$"
        axes.annotate(
            name + growth,
            xy=ends[name],
            xytext=(_LABELS_AT, height),
            textcoords="axes fraction",
            color=_colour(name),
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": _colour(name),
                "linewidth": 0.6,
                "alpha": 0.6,
                "relpos": (0, 0.5),  # the left end of the text
                "shrinkA": 1,
                "shrinkB": 4,
            },
        )


def _apart(heights: dict[str, float]) -> dict[str, float]:
    """The heights, moved so that neighbours are `_LABEL_DISTANCE` apart, as little as it takes."""
    names = sorted(heights, key=heights.__getitem__)
    steps = _LABEL_DISTANCE * np.arange(len(names))
    # Without the distances it is least squares under an order: neighbours out of order share
    # their mean.
    runs: list[list[float]] = []
    for height in np.array([heights[name] for name in names]) - steps:
        runs.append([float(height)])
        while len(runs) > 1 and np.mean(runs[-2]) > np.mean(runs[-1]):
            runs[-2:] = [runs[-2] + runs[-1]]
    moved = np.concatenate([np.full(len(run), np.mean(run)) for run in runs]) + steps
    return dict(zip(names, moved.tolist(), strict=True))
