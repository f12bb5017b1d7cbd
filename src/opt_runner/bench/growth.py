"""How the cost of one rotation grows with d, and from which d on sopt costs less than the rest."""

from collections.abc import Mapping
from dataclasses import asdict

import torch
from rich.table import Table

from opt_runner.bench import growth_plot
from opt_runner.bench.curve import FITTED, Curve, crossing
from opt_runner.bench.one_layer import Layer, ours
from opt_runner.bench.report import Report, Row, table
from opt_runner.bench.rotations import OURS
from opt_runner.bench.settings import Settings
from opt_runner.bench.summary import Summary, figure
from opt_runner.bench.timing import Sampler, first_line, interleaved, sampler
from opt_runner.console.screen import say

_COLUMNS = 64
# 4,608 is the widest layer of a ResNet, 512 x 3 x 3.
_SIZES = (64, 128, 256, 576, 1152, 2304, 4608)
_QUICK_SIZES = (8, 16, 32)
_EXACT = ("gs", "hr", "ls", "cayley", "ogd")

# At one size a method is sampled no more after so many seconds, but three times in any case.
_BUDGET = 5.0
_LEAST_CALLS = 4  # three samples, and one call to warm up


def run(settings: Settings) -> Report:
    """Tables and a plot."""
    report = Report(n=settings.count(15))
    curves = {name: Curve() for name in OURS}
    for d in _QUICK_SIZES if settings.quick else _SIZES:
        chosen = [name for name in OURS if _affordable(curves[name], d, settings.seconds)]
        say(f"growth: d = {d}, {len(chosen)} of {len(OURS)} methods, n = {report.n}")
        _measure(d, {name: curves[name] for name in chosen}, report.n, settings.hardware.device)
    report.rows = _rows(curves)
    report.tables += [_costs_table(curves, report.n), _crossings_table(curves)]
    report.notes += [
        f"forward and backward of one layer d x {_COLUMNS}, float32; R moves between samples, "
        "untimed; ogd with its optimizer's step, or with its penalty",
        f"a method goes on to the next size while {_LEAST_CALLS} calls more, forecast by d^3, "
        f"keep it within {settings.seconds:g} s; n is smaller, but at least 3, where the samples "
        f"of a size took more than {_BUDGET:g} s",
        *_omissions(curves),
    ]
    plots = growth_plot.draw(curves, _COLUMNS, settings.hardware.name, settings.out)
    report.notes += [f"plot: {path}" for path in plots]
    return report


def _affordable(curve: Curve, d: int, seconds: float) -> bool:
    need = curve.spent + _LEAST_CALLS * curve.forecast(d)
    if need > seconds:
        curve.left_out[d] = f"would need {need:,.0f} s of the {seconds:,.0f} s for a method"
    return need <= seconds


def _measure(d: int, curves: Mapping[str, Curve], samples: int, device: torch.device) -> None:
    layer = Layer.of(d, _COLUMNS, device)
    samplers: dict[str, Sampler] = {}
    for name, curve in curves.items():
        try:
            samplers[name] = sampler(ours(OURS[name], layer), device)
        except Exception as error:  # As for want of memory.
            curve.left_out[d] = first_line(error)
    for name, seconds in interleaved(samplers, samples, _BUDGET).items():
        curves[name].costs[d] = Summary.of(seconds)
        curves[name].spent += sum(seconds)


def _rows(curves: Mapping[str, Curve]) -> list[Row]:
    rows: list[Row] = []
    for name, curve in curves.items():
        rows += [
            {"measure": "cost", "method": name, "d": d, "seconds": asdict(cost)}
            for d, cost in curve.costs.items()
        ]
        rows += [
            {"measure": "left out", "method": name, "d": d, "reason": reason}
            for d, reason in curve.left_out.items()
        ]
        fitted = sorted(curve.costs)[-FITTED:]
        rows.append(
            {"measure": "exponent", "method": name, "exponent": curve.exponent(), "over": fitted}
        )
    for variant in _EXACT:
        for name in curves:
            if name.startswith("sopt"):
                start = crossing(curves[name], curves[variant])
                rows.append({"measure": "crossing", "method": name, "than": variant, "d": start})
    return rows


def _omissions(curves: Mapping[str, Curve]) -> list[str]:
    return [
        f"left out: {name} at d = {d:,}: {reason}"
        for name, curve in curves.items()
        for d, reason in curve.left_out.items()
    ]


def _costs_table(curves: Mapping[str, Curve], samples: int) -> Table:
    sizes = sorted({d for curve in curves.values() for d in curve.costs})
    cells = []
    for name, curve in curves.items():
        exponent = curve.exponent()
        cells.append(
            [
                name,
                *(_spread(curve.costs[d]) if d in curve.costs else "-" for d in sizes),
                "-" if exponent is None else f"{exponent:.2f}",
            ]
        )
    title = (
        f"One rotation by d, {_COLUMNS} columns: median ms and half the distance of its quartiles; "
        f"n = {samples}; exponent over the {FITTED} largest sizes"
    )
    return table(title, ["method", *(f"{d:,}" for d in sizes), "exponent"], cells)


def _spread(cost: Summary) -> str:
    half = (cost.upper_quartile - cost.lower_quartile) / 2 / cost.median
    return f"{figure(1000 * cost.median)} ±{100 * half:.0f}%"


def _crossings_table(curves: Mapping[str, Curve]) -> Table:
    names = [name for name in curves if name.startswith("sopt")]
    cells = []
    for variant in _EXACT:
        starts = [crossing(curves[name], curves[variant]) for name in names]
        cells.append([variant, *("never" if d is None else f"{d:,}" for d in starts)])
    title = "The least measured d from which on sopt costs less than"
    return table(title, ["", *names], cells)
