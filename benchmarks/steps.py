"""A whole training step of every method, as ratio to plain training: time and peak memory."""

from collections.abc import Mapping
from functools import partial

import torch

from benchmarks import memory
from benchmarks.report import Column, Report, Row, Settings, say, table
from benchmarks.samples import Task, attempted, paired, sampler
from benchmarks.workloads import WORKLOADS
from opt_runner.datasets import Images
from opt_runner.methods import PAPER

# Methods whose whole steps are timed.
TIMED = (
    *PAPER, "frame", "spel", "manifold_muon", "pion", "iso", "oblique", "hyperball", "sso",
)  # fmt: skip
FORMS = {"eager": (), "torch.compile": ("hardware.compile=true",)}

# A step of a small network is shorter than the scheduler's pauses: a sample takes several.
_SHORTEST = 0.1

TIMES: dict[str, Column] = {"ratio to standard": "ratio", "ms": ("seconds", 1000)}
PEAK: dict[str, Column] = {"peak MiB": ("peak_bytes", 2**-20)}


def run(settings: Settings) -> Report:
    """Measure time in every form that the device has, then memory."""
    report = Report(n=settings.count(21))
    device = settings.used.torch_device
    chosen = settings.networks_of(WORKLOADS, ("cnn9", "cnn6_narrow", "mlp"))
    networks = ["cnn9_tiny"] if settings.quick else chosen
    methods = {name: (f"method={name}",) for name in TIMED}
    for network in networks:
        images = WORKLOADS[network].images_for(*settings.arguments)
        for form in FORMS if device.type == "cuda" else ["eager"]:
            say(f"steps: {network}, {form}, n = {report.n}")
            rows = times(network, methods, images, report.n, settings, form, _SHORTEST)
            report.rows += rows
            title = f"One training step of {network}, {form}, batch {rows[0]['batch_size']}"
            report.tables.append(table(title, {"method": "method", **TIMES, "": "fault"}, rows))
    say(f"steps: peak memory of {networks[0]}")
    rows = []
    for name in ["standard", "cayley"] if settings.quick else TIMED:
        row = memory.row_of(networks[0], name, methods[name], settings.count(3), settings)
        if not row["error"]:
            row["ratio"] = row["peak_bytes"].median / (rows or [row])[0]["peak_bytes"].median
        rows.append(row)
    report.rows += rows
    title = f"Peak memory of training {networks[0]}, n = {settings.count(3)} processes"
    columns: dict[str, Column] = {"method": "method", "ratio to standard": "ratio", **PEAK}
    report.tables.append(table(title, columns, rows))
    report.notes += [
        f"median [quartiles] of n = {report.n}; ratio: a sample by the mean of the samples of "
        "`standard` right before and after it; the row `standard` is plain training against "
        "itself, which shows the machine's own noise",
        "a step: batch, forward, loss, backward, optimizer; float32, channels_last for all; a "
        f"sample is as many steps as fill {_SHORTEST} s",
        memory.HOW[device.type],
    ]
    return report


def times(
    network: str,
    methods: Mapping[str, tuple[str, ...]],
    on_cpu: Images,
    samples: int,
    settings: Settings,
    form: str = "eager",
    shortest: float = 0.0,
) -> list[Row]:
    """Return a row a method: its ratio, or the error if it does not run in this form.

    methods: arguments of opt-run by name, `standard` among them.
    """
    device, workload = settings.used.torch_device, WORKLOADS[network]
    images = on_cpu.to(device)
    # All OPT objects share their code and each is compiled anew: after 8 of them PyTorch would
    # fall back to eager without a warning.
    torch._dynamo.config.cache_size_limit = 64
    # All are built before one of them runs: torch.compile starts anew with each that is built.
    steps, errors = attempted(
        {
            name: partial(workload.step, images, *arguments, *settings.arguments, *FORMS[form])
            for name, arguments in methods.items()
        }
    )
    samplers, not_run = attempted(
        {name: partial(sampler, Task(step), device, shortest) for name, step in steps.items()}
    )
    errors |= not_run
    if "standard" in errors:
        raise RuntimeError(f"there is nothing to compare with: standard: {errors['standard']}")
    found = paired(samplers["standard"], samplers, samples)
    rows: list[Row] = []
    for method in methods:
        row = {
            "measure": "time",
            "network": network,
            "batch_size": steps["standard"].setup.batches.batch_size,
            "side": images.size[0],
            "classes": images.num_classes,
            "form": form,
            "method": method,
            "error": errors.get(method),
        }
        if method in found:
            row |= found[method]
            row["fault"] = "diverged" if steps[method].diverged_at() else None
        rows.append(row)
    return rows
