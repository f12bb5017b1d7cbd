"""How far rotations drift from orthogonality in 1,000 steps of training on digits."""

import dataclasses

import torch
from rich.table import Table

from opt_runner.bench.cells import compose
from opt_runner.bench.report import Report, Row, table, verdict
from opt_runner.bench.settings import Settings
from opt_runner.bench.timing import first_line
from opt_runner.bench.training_step import TrainingStep
from opt_runner.bench.workloads import WORKLOADS
from opt_runner.console.screen import say
from opt_runner.datasets import Digits
from opt_runner.methods import METHODS

# The most that an entry of |Q^T Q - I| may be. `or` is not exact and has no limit.
_LIMITS = {"gs": 2e-5, "hr": 2e-5, "ls": 2e-5, "cayley": 2e-5, "ogd": 1e-4, "sopt": 2e-5}
_NETWORK = "cnn6_narrow"


def run(settings: Settings) -> Report:
    """Every rotating method in float32 and under bfloat16 autocast, one run each."""
    report = Report(n=1)
    steps = 4 if settings.quick else 1000
    for precision in (torch.float32, torch.bfloat16):
        for name, method in METHODS.items():
            if method.rotates:
                say(f"drift: {name}, {_name(precision)}, {steps} steps")
                report.rows.append(_train(name, precision, steps, settings))
    report.tables.append(_table(report.rows, steps))
    report.notes.append(
        f"{_NETWORK} on digits, batch {WORKLOADS[_NETWORK].batch_size}, the recipe of opt-run with "
        "this budget, one run each"
    )
    return report


def _train(name: str, precision: torch.dtype, steps: int, settings: Settings) -> Row:
    """Train, then measure Q and the types of R and Q(R) W as the network gets them."""
    row: Row = {
        "method": name,
        "network": _NETWORK,
        "precision": _name(precision),
        "steps": steps,
        "limit": _LIMITS.get(name),
        "error": None,
    }
    hardware = dataclasses.replace(settings.hardware, precision=precision)
    cell = compose(f"method={name}", "dataset=digits", f"budget.steps={steps}")
    workload, data = WORKLOADS[_NETWORK], Digits().load()
    batches = workload.batches((data.train_images, data.train_labels), hardware)
    step = TrainingStep(workload.build(), cell, batches, hardware)
    try:
        for _ in range(steps):
            step()
        error = step.opt.orthogonality_error()
    except RuntimeError as failure:  # As of a decomposition of NaN.
        return {**row, "error": first_line(failure), "met": False}
    assert error is not None
    with hardware.autocast():
        effective = step.opt.effective_weights().values()
    types = {tensor.dtype for tensor in (*step.opt.rotations.parameters(), *effective)}
    within = row["limit"] is None or error <= row["limit"]
    return {
        **row,
        "orthogonality_error": error,
        "loss": float(step.loss_sum) / steps,
        "rotations_float32": types == {torch.float32},
        "met": within and types == {torch.float32},
    }


def _table(rows: list[Row], steps: int) -> Table:
    cells = []
    for row in rows:
        if row["error"]:
            cells.append([row["method"], row["precision"], row["error"]])
            continue
        cells.append(
            [
                row["method"],
                row["precision"],
                f"{row['orthogonality_error']:.1e}",
                f"{row['limit']:.0e}" if row["limit"] else "",
                "float32" if row["rotations_float32"] else "NOT float32",
                f"{row['loss']:.3f}",
                verdict(row["met"]),
            ]
        )
    title = f"Largest entry of |QᵀQ - I| after {steps:,} steps; n = 1"
    headings = ["method", "network in", "error", "limit", "rotations in", "mean loss", "met"]
    return table(title, headings, cells)


def _name(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")
