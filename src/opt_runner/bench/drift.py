"""How far rotations drift from orthogonality in 1,000 steps of training on digits."""

import torch

from opt_runner.bench import limits
from opt_runner.bench.part import LIMIT, Report, Row, Settings, table, text
from opt_runner.bench.samples import first_line
from opt_runner.bench.workloads import CNN6_NARROW, TIMED
from opt_runner.config import compose
from opt_runner.datasets import Digits
from opt_runner.methods import METHODS
from opt_runner.run.set_up import set_up
from opt_runner.run.step import TrainingStep

_COLUMNS = {
    "method": text("method"),
    "network in": text("precision"),
    "error": lambda row: f"{row['orthogonality_error']:.1e}",
    "rotations in": lambda row: "float32" if row["rotations_float32"] else "NOT float32",
    "mean loss": lambda row: f"{row['loss']:.3f}",
    **LIMIT,
}


def run(settings: Settings) -> Report:
    """Every method but plain training in float32 and under bfloat16 autocast, one run each."""
    report = Report(n=1)
    steps = 4 if settings.quick else 1000
    for precision in ("float32", "bfloat16"):
        for name in TIMED:
            if METHODS[name]().changes_weight:
                settings.screen.say(f"drift: {name}, {precision}, {steps} steps")
                report.rows.append(_train(name, precision, steps, settings))
    title = f"Largest entry of |QᵀQ - I| after {steps:,} steps; n = 1"
    report.tables.append(table(title, _COLUMNS, report.rows))
    report.notes += [
        "cnn6_narrow on digits, batch 128, the recipe of opt-run with this budget, one run each",
        *limits.notes("|QᵀQ - I|"),
    ]
    return report


def _train(method: str, precision: str, steps: int, settings: Settings) -> Row:
    """Train, then measure Q and the types of R and Q(R) W as the network gets them."""
    row: Row = {"method": method, "network": "cnn6_narrow", "precision": precision, "steps": steps}
    recipe = (*CNN6_NARROW, f"method={method}", "dataset=digits", f"budget.steps={steps}")
    hardware = (*settings.hardware, f"hardware.precision={precision}")
    config = compose.from_arguments(*recipe, *hardware)
    setup = set_up(config, Digits().load())
    opt, step = setup.opt, TrainingStep(setup)
    try:
        for _ in range(steps):
            step()
        error = opt.orthogonality_error()
    except RuntimeError as failure:  # As of a decomposition of NaN.
        return {**row, "error": first_line(failure), "met": False}
    assert error is not None
    with setup.device.autocast():
        effective = opt.effective_weights().values()
    types = {tensor.dtype for tensor in (*opt.stacks.parameters(), *effective)}
    row |= {
        "error": None,
        "orthogonality_error": error,
        "loss": step.take_mean_loss(),
        "rotations_float32": types == {torch.float32},
        **limits.judged("|QᵀQ - I|", error, method),
    }
    # `or` is not exact and has no limit, but its R must be float32 as well.
    row["met"] = row["met"] is not False and row["rotations_float32"]
    return row
