"""How time and memory of one rotation grow with d, and from which d on sopt costs less."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from rich.table import Table

from opt_runner.bench.allocated import peak_allocated
from opt_runner.bench.growth_plot import Line, draw
from opt_runner.bench.one_layer import OURS, ROTATING, Layer, samplers_of, two_steps
from opt_runner.bench.part import Column, Report, Row, Settings, table, text
from opt_runner.bench.samples import Summary, attempted, figure, interleaved

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


@dataclass
class Curve:
    """One method: the summary of its samples, in seconds, and its peak memory, in bytes, at each
    d, and what was left out."""

    costs: dict[int, Summary] = field(default_factory=dict)
    peaks: dict[int, int] = field(default_factory=dict)
    left_out: dict[int, str] = field(default_factory=dict)
    spent: float = 0.0  # seconds, in all

    def forecast(self, d: int) -> float:
        """Seconds of one call, if the cost grows by d^3 from the largest size so far."""
        if not self.costs:
            return 0.0
        largest = max(self.costs)
        return self.costs[largest].median * (d / largest) ** 3

    @property
    def time(self) -> Line:
        """Median ms."""
        return fitted({d: 1000 * cost.median for d, cost in self.costs.items()})

    @property
    def memory(self) -> Line:
        """MiB."""
        return fitted({d: peak / 2**20 for d, peak in self.peaks.items()})


Curves = Mapping[str, Curve]


def fitted(values: Mapping[int, float]) -> Line:
    """With the slope of log(value) over log(d) at the largest sizes, by least squares."""
    sizes = _largest(values)
    if len(sizes) < 2:
        return Line(values, exponent=None)
    slope, _ = np.polyfit(np.log(sizes), np.log([values[d] for d in sizes]), deg=1)
    return Line(values, float(slope))


def _largest(values: Mapping[int, float]) -> list[int]:
    return sorted(values)[-_FITTED:]


def crossing(curve: Curve, other: Curve) -> int | None:
    """The least measured d from which on `curve` costs less at every d that both have."""
    start = None
    for d in sorted(curve.costs.keys() & other.costs.keys(), reverse=True):
        if curve.costs[d].median >= other.costs[d].median:
            break
        start = d
    return start


def run(settings: Settings) -> Report:
    """Tables and two plots."""
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
    times = {name: curve.time for name, curve in curves.items()}
    memory = {name: curve.memory for name, curve in curves.items()}
    report.tables = [
        _table_by_d(
            f"One rotation by d, {_COLUMNS} columns: median ms and half the distance of its "
            f"quartiles; n = {report.n}; exponent over the {_FITTED} largest sizes",
            curves,
            times,
            _cost,
        ),
        _crossings_table(curves),
        _table_by_d(f"Peak memory by d, {_COLUMNS} columns: MiB", curves, memory, _mebibytes),
    ]
    layer = f"of a layer d × {_COLUMNS}\n{device.name}, float32"
    plots = [
        *draw(
            times,
            f"One rotation, forward and backward, {layer}; medians",
            "ms",
            settings.out / "growth",
        ),
        *draw(
            memory,
            f"Peak memory of two training steps {layer}",
            "MiB",
            settings.out / "growth_memory",
        ),
    ]
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
        "memory: the most that PyTorch's allocator gives out at once, from before R is made "
        "through two steps: a copy of W, R, its gradient and momentum, and what a step needs; "
        "n = 1, as it is the same each time",
        *(f"plot: {path}" for path in plots),
    ]
    return report


def _affordable(curve: Curve, d: int, seconds: float) -> bool:
    need = curve.spent + _LEAST_CALLS * curve.forecast(d)
    if need > seconds:
        curve.left_out[d] = f"would need {need:,.0f} s of the {seconds:,.0f} s for a method"
    return need <= seconds


def _measure(d: int, curves: Curves, samples: int, device: torch.device) -> None:
    layer = Layer.of(d, _COLUMNS, device)
    # Before the times, which leave in the process what a method keeps for a size.
    peaks, _ = attempted(
        {
            name: partial(peak_allocated, partial(two_steps, ROTATING[name], layer), device)
            for name in curves
        }
    )
    for name, peak in peaks.items():
        curves[name].peaks[d] = peak
    samplers, errors = samplers_of({name: OURS[name] for name in curves}, layer, device)
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
        for d, peak in curve.peaks.items():
            rows.append({"measure": "memory", "method": name, "d": d, "bytes": peak})
        for d, reason in curve.left_out.items():
            rows.append({"measure": "left out", "method": name, "d": d, "reason": reason})
        for of, line in (("time", curve.time), ("memory", curve.memory)):
            slope = {"of": of, "exponent": line.exponent, "over": _largest(line.values)}
            rows.append({"measure": "exponent", "method": name, **slope})
    for other in _OTHERS:
        for name in _SOPT:
            start = crossing(curves[name], curves[other])
            rows.append({"measure": "crossing", "method": name, "than": other, "d": start})
    return rows


def _table_by_d(
    title: str, curves: Curves, lines: Mapping[str, Line], cell: Callable[[int, Row], str]
) -> Table:
    """A line a method, a column a size, and the exponent of the method's line."""
    sizes = sorted({d for line in lines.values() for d in line.values})
    columns: dict[str, Column] = {"method": text("method")}
    columns |= {f"{d:,}": partial(cell, d) for d in sizes}
    columns["exponent"] = _exponent
    rows = [{"method": name, "curve": curves[name], "line": line} for name, line in lines.items()]
    return table(title, columns, rows)


def _cost(d: int, row: Row) -> str:
    cost: Summary | None = row["curve"].costs.get(d)
    if cost is None:
        return "-"
    half = (cost.upper_quartile - cost.lower_quartile) / 2 / cost.median
    return f"{figure(1000 * cost.median)} ±{100 * half:.0f}%"


def _exponent(row: Row) -> str:
    exponent: float | None = row["line"].exponent
    return "-" if exponent is None else f"{exponent:.2f}"


def _mebibytes(d: int, row: Row) -> str:
    mebibytes: float | None = row["line"].values.get(d)
    return "-" if mebibytes is None else figure(mebibytes)


def _crossings_table(curves: Curves) -> Table:
    rows: list[Row] = []
    for other in _OTHERS:
        starts = {name: crossing(curves[name], curves[other]) for name in _SOPT}
        shown = {name: "never" if d is None else f"{d:,}" for name, d in starts.items()}
        rows.append({"": other, **shown})
    columns = {heading: text(heading) for heading in ("", *_SOPT)}
    return table("The least measured d from which on sopt costs less than", columns, rows)
