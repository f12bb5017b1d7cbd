"""A whole training step of every method, as ratio to plain training: time and peak memory."""

from functools import partial

import torch

from opt_runner.bench import limits, memory
from opt_runner.bench.part import LIMIT, Column, Report, Row, Settings, spread, table, text
from opt_runner.bench.samples import Summary, Task, attempted, first_line, paired, sampler
from opt_runner.bench.workloads import FORMS, TIMED, WORKLOADS
from opt_runner.datasets import Images
from opt_runner.run.step import TrainingStep

# A step of a small network is shorter than the scheduler's hiccups: a sample takes several.
_SHORTEST = 0.1

_COLUMNS: dict[str, Column] = {
    "method": text("method"),
    "ratio to standard": spread("ratio", digits=4),
    "ms": spread("seconds", scale=1000),
    **LIMIT,
    "faults": lambda row: "; ".join(
        filter(None, [row["waits_for_gpu"], "diverged" if row["diverged"] else ""])
    ),
}


def run(settings: Settings) -> Report:
    """Time in every form that the device has, then memory."""
    report = Report(n=settings.count(21))
    device = settings.device.torch_device
    chosen = settings.networks_of(list(WORKLOADS), ("cnn9", "cnn6_narrow", "mlp"))
    networks = ["cnn9_tiny"] if settings.quick else chosen
    for network in networks:
        images = WORKLOADS[network].images_for(*settings.arguments).to(device)
        for form in FORMS if device.type == "cuda" else ["eager"]:
            settings.screen.say(f"steps: {network}, {form}, n = {report.n}")
            rows = _times(network, form, images, report.n, settings)
            report.rows += rows
            title = (
                f"One training step of {network}, {form}, batch {rows[0]['batch_size']}; "
                f"median [quartiles] of n = {report.n}"
            )
            report.tables.append(table(title, _COLUMNS, rows))
    report.notes += [
        "ratio: a sample by the mean of the samples of `standard` right before and after it; the "
        "row `standard` is plain training against itself: what the machine adds",
        "a step: batch, forward, loss, backward, optimizer; float32, channels_last for all; a "
        f"sample is as many steps as fill {_SHORTEST} s",
        *limits.notes(f"time of a step, {networks[0]}, {device.type}"),
    ]
    memory.measure(networks[0], report, settings)
    return report


def _times(network: str, form: str, images: Images, samples: int, settings: Settings) -> list[Row]:
    """A row a method: its ratio, or the error for which it does not run in this form."""
    device, build = settings.device.torch_device, FORMS[form]
    # All are built before one of them runs: torch.compile starts anew with each that is built.
    steps, errors = attempted(
        {
            method: partial(
                build, WORKLOADS[network], images, f"method={method}", *settings.arguments
            )
            for method in TIMED
        }
    )
    samplers, not_run = attempted(
        {name: partial(sampler, Task(step), device, _SHORTEST) for name, step in steps.items()}
    )
    errors |= not_run
    if "standard" in errors:
        raise RuntimeError(f"there is nothing to compare with: standard: {errors['standard']}")
    pairs = paired(samplers["standard"], samplers, samples)
    rows: list[Row] = []
    for method in TIMED:
        row: Row = {
            "measure": "time",
            "network": network,
            "batch_size": steps["standard"].setup.config.batch_size,
            "side": images.size[0],
            "classes": images.num_classes,
            "form": form,
            "method": method,
            "error": errors.get(method),
        }
        if method in pairs:
            ratio = Summary.of(pair.ratio for pair in pairs[method])
            row |= {
                "ratio": ratio,
                "seconds": Summary.of(pair.seconds for pair in pairs[method]),
                "standard_seconds": Summary.of(pair.baseline for pair in pairs[method]),
                **limits.judged(f"time of a step, {network}, {device.type}", ratio.median, method),
                "waits_for_gpu": _wait(steps[method], device),
                "diverged": bool(steps[method].diverged_at()),
            }
        rows.append(row)
    return rows


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
