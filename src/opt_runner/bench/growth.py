"""How the cost of one rotation grows with d, and from which d on sopt costs less than the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from rich.table import Table
from scipy.optimize import isotonic_regression

from opt_runner.bench.one_layer import OURS, Layer, samplers_of
from opt_runner.bench.part import Column, Report, Row, Settings, table, text
from opt_runner.bench.samples import Summary, figure, interleaved
from opt_runner.methods import METHODS, Method

_COLUMNS = 64
# 4,608 is the widest layer of a ResNet, 512 x 3 x 3.
_SIZES = (64, 128, 256, 576, 1152, 2304, 4608)
_QUICK_SIZES = (8, 16, 32)
_SOPT = [name for name in OURS if name.startswith("sopt")]
_OTHERS = ["gs", "hr", "ls", "cayley", "ogd"]

# At one size a method is sampled no more after so many seconds, but three times in any case.
_BUDGET = 5.0
_LEAST_CALLS = 4  # three samples, and one call to warm up
# An exponent is fitted to so many of the largest sizes: the small ones are all overhead.
_FITTED = 3

_QUIET = "#666666"
_LABELS_AT = 1.06  # of the axes' width
_LABEL_DISTANCE = 0.055  # of the axes' height, at least


@dataclass
class Curve:
    """One method: the summary of its samples, in seconds, at each d, and what was left out."""

    costs: dict[int, Summary] = field(default_factory=dict)
    left_out: dict[int, str] = field(default_factory=dict)
    spent: float = 0.0  # seconds, in all

    def forecast(self, d: int) -> float:
        """Seconds of one call, if the cost grows by d^3 from the largest size so far."""
        if not self.costs:
            return 0.0
        largest = max(self.costs)
        return self.costs[largest].median * (d / largest) ** 3

    @property
    def fitted(self) -> list[int]:
        """The sizes that the exponent is fitted to."""
        return sorted(self.costs)[-_FITTED:]

    @property
    def exponent(self) -> float | None:
        """The slope of log(median) over log(d) at those sizes, by least squares."""
        if len(self.fitted) < 2:
            return None
        medians = [self.costs[d].median for d in self.fitted]
        slope, _ = np.polyfit(np.log(self.fitted), np.log(medians), deg=1)
        return float(slope)


Curves = Mapping[str, Curve]


def crossing(curve: Curve, other: Curve) -> int | None:
    """The least measured d from which on `curve` costs less at every d that both have."""
    start = None
    for d in sorted(curve.costs.keys() & other.costs.keys(), reverse=True):
        if curve.costs[d].median >= other.costs[d].median:
            break
        start = d
    return start


def run(settings: Settings) -> Report:
    """Tables and a plot."""
    report = Report(n=settings.count(15))
    curves = {name: Curve() for name in OURS}
    device = settings.device
    for d in _QUICK_SIZES if settings.quick else _SIZES:
        chosen = {
            name: curve for name, curve in curves.items() if _affordable(curve, d, settings.seconds)
        }
        settings.screen.say(f"growth: d = {d}, {len(chosen)} of {len(OURS)}, n = {report.n}")
        _measure(d, chosen, report.n, device.torch_device)
    report.rows = _rows(curves)
    report.tables = [_costs_table(curves, report.n), _crossings_table(curves)]
    report.notes = [
        f"forward and backward of one layer d x {_COLUMNS}, float32; R moves between samples, "
        "untimed; ogd with its optimizer's step, or with its penalty",
        f"a method goes on to the next size while {_LEAST_CALLS} calls more, forecast by d^3, "
        f"keep it within {settings.seconds:g} s; n is smaller, but at least 3, where the samples "
        f"of a size took more than {_BUDGET:g} s",
        *(
            f"left out: {row['method']} at d = {row['d']:,}: {row['reason']}"
            for row in report.rows
            if row["measure"] == "left out"
        ),
        *(f"plot: {path}" for path in _draw(curves, device.name, settings.out)),
    ]
    return report


def _affordable(curve: Curve, d: int, seconds: float) -> bool:
    need = curve.spent + _LEAST_CALLS * curve.forecast(d)
    if need > seconds:
        curve.left_out[d] = f"would need {need:,.0f} s of the {seconds:,.0f} s for a method"
    return need <= seconds


def _measure(d: int, curves: Curves, samples: int, device: torch.device) -> None:
    ways = {name: OURS[name] for name in curves}
    samplers, errors = samplers_of(ways, Layer.of(d, _COLUMNS, device), device)
    for name, error in errors.items():  # As for want of memory.
        curves[name].left_out[d] = error
    for name, seconds in interleaved(samplers, samples, _BUDGET).items():
        curves[name].costs[d] = Summary.of(seconds)
        curves[name].spent += sum(seconds)


def _rows(curves: Curves) -> list[Row]:
    rows: list[Row] = []
    for name, curve in curves.items():
        for d, cost in curve.costs.items():
            rows.append({"measure": "cost", "method": name, "d": d, "seconds": cost})
        for d, reason in curve.left_out.items():
            rows.append({"measure": "left out", "method": name, "d": d, "reason": reason})
        slope = {"exponent": curve.exponent, "over": curve.fitted}
        rows.append({"measure": "exponent", "method": name, **slope})
    for other in _OTHERS:
        for name in _SOPT:
            start = crossing(curves[name], curves[other])
            rows.append({"measure": "crossing", "method": name, "than": other, "d": start})
    return rows


def _costs_table(curves: Curves, samples: int) -> Table:
    sizes = sorted({d for curve in curves.values() for d in curve.costs})
    columns: dict[str, Column] = {"method": text("method")}
    columns |= {f"{d:,}": partial(_cost, d) for d in sizes}
    columns["exponent"] = _exponent
    rows = [{"method": name, "curve": curve} for name, curve in curves.items()]
    title = (
        f"One rotation by d, {_COLUMNS} columns: median ms and half the distance of its quartiles; "
        f"n = {samples}; exponent over the {_FITTED} largest sizes"
    )
    return table(title, columns, rows)


def _cost(d: int, row: Row) -> str:
    cost: Summary | None = row["curve"].costs.get(d)
    if cost is None:
        return "-"
    half = (cost.upper_quartile - cost.lower_quartile) / 2 / cost.median
    return f"{figure(1000 * cost.median)} ±{100 * half:.0f}%"


def _exponent(row: Row) -> str:
    exponent: float | None = row["curve"].exponent
    return "-" if exponent is None else f"{exponent:.2f}"


def _crossings_table(curves: Curves) -> Table:
    rows: list[Row] = []
    for other in _OTHERS:
        starts = {name: crossing(curves[name], curves[other]) for name in _SOPT}
        shown = {name: "never" if d is None else f"{d:,}" for name, d in starts.items()}
        rows.append({"": other, **shown})
    columns = {heading: text(heading) for heading in ("", *_SOPT)}
    return table("The least measured d from which on sopt costs less than", columns, rows)


def _draw(curves: Curves, device: str, folder: Path) -> list[Path]:
    """Write growth.png and growth.svg: a line a method, both axes logarithmic, labels at the
    right; OPT above, what it is compared with below."""
    drawn = {name: curve for name, curve in curves.items() if curve.costs}
    sizes = sorted({d for curve in drawn.values() for d in curve.costs})
    panels = {
        "OPT; dashed: S-OPT, a quarter of the rows": {
            name: curve for name, curve in drawn.items() if _method(name).family == "OPT"
        },
        "rivals and descendants": {
            name: curve for name, curve in drawn.items() if _method(name).family != "OPT"
        },
    }
    # Words stay words in the SVG: they can be searched.
    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 10}):
        picture = Figure(figsize=(8, 10), layout="constrained")
        picture.suptitle(
            f"One rotation, forward and backward, of a layer d × {_COLUMNS}\n"
            f"{device}, float32; medians",
            x=0.01, ha="left",
        )  # fmt: skip
        both: Sequence[Axes] = picture.subplots(2, sharex=True, sharey=True)
        for axes, (title, of_panel) in zip(both, panels.items(), strict=True):
            axes.set_title(title, loc="left", color=_QUIET, fontsize=10)
            _lines(axes, of_panel)
            _style(axes, sizes)
        both[-1].set_xlabel("d, the layer's fan-in")
        for axes, of_panel in zip(both, panels.values(), strict=True):
            _label(axes, of_panel)  # now that the axes have their limits, which they share
        paths = [folder / "growth.png", folder / "growth.svg"]
        for path in paths:
            picture.savefig(path, dpi=200)
    return paths


def _lines(axes: Axes, curves: Curves) -> None:
    for name, curve in curves.items():
        axes.plot(
            sorted(curve.costs),
            [1000 * curve.costs[d].median for d in sorted(curve.costs)],
            color=_method(name).colour,
            linestyle=(0, (4, 2)) if name in _SOPT else "solid",
            linewidth=1.6,
            marker="o",
            markersize=3.5,
        )


def _method(name: str) -> type[Method]:
    """Of sopt that of its inner map, whose colour it has, dashed."""
    return METHODS[name.removeprefix("sopt (").removesuffix(")")]


def _style(axes: Axes, sizes: list[int]) -> None:
    axes.set(xscale="log", yscale="log", ylabel="ms")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, colors=_QUIET)


def _label(axes: Axes, curves: Curves) -> None:
    """Each method's name and exponent at the right, in the lines' order, tied to its line's end."""
    ends = [(max(c.costs), 1000 * c.costs[max(c.costs)].median) for c in curves.values()]
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = apart(to_axes.transform(ends)[:, 1], _LABEL_DISTANCE)
    for (name, curve), end, height in zip(curves.items(), ends, heights, strict=True):
        growth = "" if curve.exponent is None else f"   $d^{{\\,{curve.exponent:.1f}}}$"
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
