"""A whole training step of every method, as ratio to plain training: time and peak memory."""

from dataclasses import asdict

import torch
from rich.table import Table

from opt_runner.bench import memory
from opt_runner.bench.forms import FORMS, Store
from opt_runner.bench.report import Report, Row, table, verdict
from opt_runner.bench.settings import Settings
from opt_runner.bench.summary import Summary, figure
from opt_runner.bench.timing import Task, first_line, paired, sampler
from opt_runner.bench.training_step import TrainingStep
from opt_runner.bench.workloads import WORKLOADS, Workload
from opt_runner.console.screen import say
from opt_runner.methods import METHODS

# The most that a step of CNN-9 may take, as ratio to `standard`.
_LIMITED = "cnn9"
_TIME_LIMITS = {
    "cpu": {
        "gs": 1.12, "hr": 1.12, "ls": 1.35, "cayley": 1.05, "ogd": 1.05, "or": 1.08, "sopt": 1.05,
    },
    "cuda": {method: 1.15 for method in METHODS if method != "standard"},
}  # fmt: skip
_MEMORY_LIMIT = 1.4

# A step of a small network is shorter than the scheduler's hiccups: a sample takes several.
_SHORTEST = 0.1


def run(settings: Settings) -> Report:
    """Time in every form that the device has, then memory."""
    report = Report(n=settings.count(21))
    device = settings.hardware.device
    cuda = device.type == "cuda"
    networks = ["cnn9_tiny"] if settings.quick else ["cnn9", "cnn6_narrow", "mlp"]
    for network in networks:
        workload = WORKLOADS[network]
        images, labels = workload.store()
        store = images.to(device), labels.to(device)
        for form in FORMS if cuda else ["eager"]:
            say(f"steps: {network}, {form}, n = {report.n}")
            rows = _times(workload, form, store, report.n, settings)
            report.rows += rows
            report.tables.append(_time_table(workload, form, rows, report.n))
    report.notes += [
        "ratio: a sample by the mean of the samples of `standard` right before and after it; the "
        "row `standard` is plain training against itself: what the machine adds",
        "a step: batch, forward, loss, backward, optimizer; float32, channels_last for all; a "
        f"sample is as many steps as fill {_SHORTEST} s",
    ]
    if memory.measurable(device):
        methods = ["standard", "cayley"] if settings.quick else list(METHODS)
        say(f"steps: peak memory of {networks[0]}")
        rows = _memory(networks[0], methods, settings)
        report.rows += rows
        report.tables.append(_memory_table(networks[0], rows))
        report.notes.append(memory.HOW["cuda" if cuda else "cpu"])
    else:
        report.notes.append("peak memory: not measured, this system has no /proc/self/status")
    return report


def _times(
    workload: Workload, form: str, store: Store, samples: int, settings: Settings
) -> list[Row]:
    """A row a method: its ratio, or the error for which it does not run in this form."""
    device = settings.hardware.device
    steps, errors = _build(workload, form, store, settings)
    samplers = {name: sampler(Task(step), device, _SHORTEST) for name, step in steps.items()}
    pairs = paired(samplers["standard"], samplers, samples)
    limits = _TIME_LIMITS[device.type] if workload.name == _LIMITED else {}
    rows: list[Row] = []
    for method in METHODS:
        row: Row = {
            "measure": "time",
            "network": workload.name,
            "batch_size": workload.batch_size,
            "side": workload.side,
            "classes": workload.classes,
            "form": form,
            "method": method,
            "error": errors.get(method),
        }
        if method in pairs:
            ratio = Summary.of(pair.ratio for pair in pairs[method])
            limit = limits.get(method)
            row |= {
                "ratio": asdict(ratio),
                "seconds": asdict(Summary.of(pair.seconds for pair in pairs[method])),
                "standard_seconds": asdict(Summary.of(pair.baseline for pair in pairs[method])),
                "limit": limit,
                "met": None if limit is None else ratio.median <= limit,
                "waits_for_gpu": _wait(steps[method], device),
                "diverged": steps[method].diverged,
            }
        rows.append(row)
    return rows


def _build(
    workload: Workload, form: str, store: Store, settings: Settings
) -> tuple[dict[str, TrainingStep], dict[str, str]]:
    """The steps that run, after one call of each, and the errors of those that do not."""
    steps: dict[str, TrainingStep] = {}
    errors: dict[str, str] = {}
    for method in METHODS:
        try:
            step = FORMS[form](workload, method, store, settings.hardware)
            step()
        except Exception as error:
            if method == "standard":  # Without it there is nothing to compare with.
                raise
            errors[method] = first_line(error)
        else:
            steps[method] = step
    return steps, errors


def _wait(step: TrainingStep, device: torch.device) -> str | None:
    """Where a step waits for the GPU, as PyTorch says it, or None where it does not."""
    if device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return first_line(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def _time_table(workload: Workload, form: str, rows: list[Row], samples: int) -> Table:
    title = (
        f"One training step of {workload.name}, {form}: {workload.side} x {workload.side}, "
        f"batch {workload.batch_size}; median [quartiles] of n = {samples}"
    )
    cells = []
    for row in rows:
        if row["error"]:
            cells.append([row["method"], row["error"], "", "", ""])
            continue
        faults = [row["waits_for_gpu"] or "", "diverged" if row["diverged"] else ""]
        cells.append(
            [
                row["method"],
                Summary(**row["ratio"]).text(digits=4),
                Summary(**row["seconds"]).text(scale=1000),
                f"{row['limit']:.2f}" if row["limit"] else "",
                verdict(row["met"]),
                "; ".join(filter(None, faults)),
            ]
        )
    return table(title, ["method", "ratio to standard", "ms", "limit", "met", "faults"], cells)


def _memory(network: str, methods: list[str], settings: Settings) -> list[Row]:
    device = settings.hardware.device
    processes = settings.count(3)
    rows: list[Row] = []
    for method in methods:
        row: Row = {"measure": "memory", "network": network, "method": method}
        try:
            peaks = [memory.peak_bytes(network, method, device, settings) for _ in range(processes)]
        except RuntimeError as error:
            if method == "standard":
                raise
            rows.append({**row, "error": first_line(error)})
            continue
        peak = Summary.of(peaks)
        standard = rows[0]["peak_bytes"]["median"] if rows else peak.median
        ratio = peak.median / standard
        limit = _MEMORY_LIMIT if network == _LIMITED and rows else None
        rows.append(
            {
                **row,
                "error": None,
                "peak_bytes": asdict(peak),
                "ratio": ratio,
                "limit": limit,
                "met": None if limit is None else ratio <= limit,
            }
        )
    return rows


def _memory_table(network: str, rows: list[Row]) -> Table:
    samples = rows[0]["peak_bytes"]["n"]
    cells = [
        [row["method"], row["error"]]
        if row["error"]
        else [
            row["method"],
            figure(row["ratio"]),
            Summary(**row["peak_bytes"]).text(scale=2**-20),
            f"{row['limit']:.2f}" if row["limit"] else "",
            verdict(row["met"]),
        ]
        for row in rows
    ]
    title = f"Peak memory of training {network}; median [quartiles] of n = {samples} processes"
    return table(title, ["method", "ratio to standard", "MiB", "limit", "met"], cells)
