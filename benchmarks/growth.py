"""Growth of time and memory of one rotation with d."""

import gc
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from benchmarks.memory import peak_allocated
from benchmarks.report import Column, Report, Settings, say, table
from benchmarks.rotations import OURS, ROTATING, Layer, samplers_of, two_steps
from benchmarks.samples import Summary, attempted, interleaved

# 4,608 is the widest layer of a ResNet, 512 x 3 x 3.
_SIZES = (64, 128, 256, 576, 1152, 2304, 4608)
_QUICK_SIZES = (8, 16, 32)

# Seconds at one size, after which a method is sampled no more, but never before three samples.
_BUDGET = 5.0
_LEAST_CALLS = 4  # three samples, and one call to warm up

Lines = Mapping[str, Mapping[int, float]]  # values by method and d


def run(settings: Settings) -> Report:
    """Make two tables and two plots."""
    report = Report(n=settings.count(15))
    gc.collect()
    gc.freeze()  # so that a collection looks at what is made from now on, and takes no time
    device = settings.used
    ms: dict[str, dict[int, float]] = {name: {} for name in OURS}
    mib: dict[str, dict[int, float]] = {name: {} for name in OURS}
    spent = dict.fromkeys(OURS, 0.0)
    sizes = _QUICK_SIZES if settings.quick else _SIZES
    for d in sizes:
        need = {name: spent[name] + _LEAST_CALLS * _forecast(ms[name], d) for name in OURS}
        chosen = [name for name in OURS if need[name] <= settings.seconds]
        say(f"growth: d = {d}, {len(chosen)} of {len(OURS)} methods, n = {report.n}")
        peaks, seconds, errors = _measure(
            d, settings.columns, chosen, report.n, device.torch_device
        )
        for name, peak in peaks.items():
            mib[name][d] = peak / 2**20
            report.rows.append({"measure": "memory", "method": name, "d": d, "bytes": peak})
        for name, taken in seconds.items():
            cost = Summary.of(taken)
            ms[name][d], spent[name] = 1000 * cost.median, spent[name] + sum(taken)
            report.rows.append({"measure": "cost", "method": name, "d": d, "seconds": cost})
        reasons = errors | {name: "too slow" for name in OURS if name not in chosen}
        for name, why in reasons.items():
            report.rows.append({"measure": "left out", "method": name, "d": d, "reason": why})
    layer = f"of a layer d × {settings.columns}, {device.name}, float32"
    columns: Mapping[str, Column] = {"method": "method"} | {f"{d:,}": str(d) for d in sizes}
    for name, title, lines in (
        ("growth", "One rotation, forward and backward, median ms", ms),
        ("growth_memory", "Peak memory of two training steps, MiB", mib),
    ):
        rows = [{"method": m, **{str(d): v for d, v in of.items()}} for m, of in lines.items()]
        report.tables.append(table(f"{title}, by d", columns, rows))
        draw(lines, f"{title}\n{layer}", settings.out / f"{name}.png")
    report.notes = [
        f"forward and backward of one layer d x {settings.columns}, float32; R moves between "
        "samples, untimed; methods with an optimizer of their own with its step, `or` with "
        "its penalty",
        f"a method goes on to the next size while {_LEAST_CALLS} calls more, forecast by d^3, "
        f"keep it within {settings.seconds:g} s; n is smaller, but at least 3, where the samples "
        f"of a size took more than {_BUDGET:g} s",
        "memory: the most that PyTorch's allocator gives out at once, from before R is made "
        "through two steps: a copy of W, R, its gradient and momentum, and workspace of a step; "
        "n = 1, as it is the same each time",
    ]
    return report


def _forecast(ms: Mapping[int, float], d: int) -> float:
    """Return seconds of one call, if the cost grows by d^3 from the largest size so far."""
    return ms[max(ms)] / 1000 * (d / max(ms)) ** 3 if ms else 0.0


def _measure(
    d: int, columns: int, chosen: list[str], samples: int, device: torch.device
) -> tuple[dict[str, int], dict[str, list[float]], dict[str, str]]:
    """Return bytes, seconds, and the errors of the methods that do not run."""
    layer = Layer.of(d, columns, device)
    # Memory before the times, after which a method's own caches for a size stay in the process.
    steps = [partial(two_steps, ROTATING[name], layer) for name in chosen]
    makers = [partial(peak_allocated, run, device) for run in steps]
    peaks, _ = attempted(dict(zip(chosen, makers, strict=True)))
    samplers, errors = samplers_of({name: OURS[name] for name in chosen}, layer, device)
    return peaks, interleaved(samplers, samples, _BUDGET), errors


def draw(lines: Lines, title: str, path: Path) -> None:
    """Draw OPT above and rivals below, with the names in the order of the lines' ends."""
    drawn = {name: line for name, line in lines.items() if line}
    picture = Figure(figsize=(8, 10), layout="constrained")
    picture.suptitle(title, x=0.01, ha="left")
    upper, lower = picture.subplots(2, sharex=True, sharey=True)
    upper.set_title("OPT; dashed: S-OPT, a quarter of the rows", loc="left", fontsize=10)
    lower.set_title("rivals and descendants", loc="left", fontsize=10)
    lower.set_xlabel("d, the layer's fan-in")
    for name in sorted(drawn, key=lambda name: -drawn[name][max(drawn[name])]):
        # A map inside of sopt has its own colour and is dashed.
        method = ROTATING[name.removeprefix("sopt (").removesuffix(")")]
        axes = upper if method.family == "OPT" else lower
        dashes = (0, (4, 2)) if name.startswith("sopt") else "solid"
        x = sorted(drawn[name])
        y = [drawn[name][d] for d in x]
        axes.plot(x, y, label=name, color=method.colour, linestyle=dashes, marker="o", markersize=4)
    for axes in (upper, lower):
        axes.set(xscale="log", yscale="log")
        axes.xaxis.set_major_locator(FixedLocator(sorted({d for of in drawn.values() for d in of})))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    picture.savefig(path, dpi=200)
