"""OPT on networks with large layers: what a step should take, by its shapes, and what it takes."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

from opt_runner.bench import memory
from opt_runner.bench.part import Column, Report, Row, Settings, spread, table, text
from opt_runner.bench.samples import Summary, Task, attempted, figure, first_line, paired, sampler
from opt_runner.bench.workloads import WORKLOADS, eager
from opt_runner.datasets import Images
from opt_runner.run.size import Size, size_of

NETWORKS = ("resnet18", "wide_resnet", "convnext_tiny", "vit_tiny")

_UP_TO = "layers.max_d=1152"
_BEYOND = "layers.rest=[{method: sopt, options: {share: 0.1}}]"
# Arguments of opt-run. Larger layers than the limit in a name are plain, or rotated by S-OPT in a
# tenth of their rows.
METHODS: dict[str, tuple[str, ...]] = {
    "standard": ("method=standard",),
    "oft": ("method=oft",),
    "sopt": ("method=sopt",),
    "frame": ("method=frame",),
    "cayley, d <= 1,152": ("method=cayley", _UP_TO),
    "cayley, d <= 1,152, and sopt": ("method=cayley", _UP_TO, _BEYOND),
    "gs, d <= 1,152": ("method=gs", _UP_TO),
    "cayley": ("method=cayley",),
    "gs": ("method=gs",),
    "ogd": ("method=ogd",),
    "ls": ("method=ls",),
}
_QUICK = ("standard", "frame", "cayley, d <= 1,152")
# A process each is slow to start: one of each kind.
_MEMORY_OF = ("standard", "cayley", "cayley, d <= 1,152")
# What has more operations than this, in those of plain training, is planned and not measured.
_MOST = 6.0


def _size(key: str, unit: float) -> Column:
    return lambda row: "" if row.get(key) is None else figure(row[key] / unit)


_COLUMNS: dict[str, Column] = {
    "method": text("method"),
    "R (million)": _size("beside", 1e6),
    "GFLOP": _size("flops", 1e9),
    "planned MiB": _size("memory", 2**20),
    "ratio to standard": spread("ratio"),
    "ms": spread("seconds", scale=1000),
    "peak MiB": spread("peak_bytes", scale=2**-20),
    "": lambda row: row["why"] or "",
}


def run(settings: Settings) -> Report:
    """A table a network. Raises UserError for a network that is none of them."""
    chosen = settings.networks_of(NETWORKS, NETWORKS)
    report = Report(n=settings.count(3))
    for network in ["cnn9_tiny"] if settings.quick else chosen:
        rows = _rows(network, report.n, settings)
        report.rows += rows
        batch = WORKLOADS[network].config(*settings.arguments).batch_size
        title = f"One training step of {network}, batch {batch}; median [quartiles], n = {report.n}"
        report.tables.append(table(title, _COLUMNS, rows))
    report.notes = [
        "ratio: a sample by the mean of the samples of `standard` right before and after it",
        "R: what trains beside the network; GFLOP and planned MiB: of a step, from the shapes, as "
        "`plan.measure=true` shows them",
        f"not measured: what has more than {_MOST:g} times the operations of plain training",
        memory.how(settings) if memory.measurable(settings) else memory.NOT_MEASURED,
    ]
    return report


def _rows(network: str, samples: int, settings: Settings) -> list[Row]:
    workload = WORKLOADS[network]
    on_cpu = workload.images_for(*settings.arguments)
    chosen = _QUICK if settings.quick else METHODS
    planned = {
        name: size_of(workload.config(*METHODS[name], *settings.arguments), on_cpu)
        for name in chosen
    }
    for name in chosen:  # where no layer is larger than the limit
        whole = name.partition(",")[0]
        if whole != name and planned[name] and planned[name] == planned.get(whole):
            del planned[name]
    plain = planned["standard"]
    within = [
        name
        for name, size in planned.items()
        if plain is None or size is None or size.flops <= _MOST * plain.flops
    ]
    rows = {name: _planned(network, name, planned) for name in planned}
    images = on_cpu.to(settings.device.torch_device)
    _add_times(rows, within, network, images, samples, settings)
    for name in within if memory.measurable(settings) else ():
        if name in _MEMORY_OF and not rows[name]["error"]:
            settings.screen.say(f"networks: peak memory of {network}, {name}")
            try:
                peak = memory.peak_bytes(network, METHODS[name], settings)
            except RuntimeError as error:
                rows[name]["why"] = first_line(error)
            else:
                rows[name]["peak_bytes"] = Summary.of([peak])
    return list(rows.values())


def _planned(network: str, name: str, planned: Mapping[str, Size | None]) -> Row:
    size, plain = planned[name], planned["standard"]
    row: Row = {"network": network, "method": name, "error": None, "why": None}
    if size is not None and plain is not None:
        row |= asdict(size)
        if size.flops > _MOST * plain.flops:
            row["why"] = f"not measured: {figure(size.flops / plain.flops)} times the operations"
    return row


def _add_times(
    rows: Mapping[str, Row],
    within: list[str],
    network: str,
    images: Images,
    samples: int,
    settings: Settings,
) -> None:
    device = settings.device.torch_device
    settings.screen.say(f"networks: steps of {network}, n = {samples}")
    makers = {
        name: partial(eager, WORKLOADS[network], images, *METHODS[name], *settings.arguments)
        for name in within
    }
    steps, errors = attempted(makers)
    samplers, not_run = attempted(
        {name: partial(sampler, Task(step), device) for name, step in steps.items()}
    )
    errors |= not_run
    if "standard" in errors:
        raise RuntimeError(f"there is nothing to compare with: standard: {errors['standard']}")
    for name, error in errors.items():
        rows[name]["error"] = error
    for name, pairs in paired(samplers["standard"], samplers, samples).items():
        rows[name]["ratio"] = Summary.of(pair.ratio for pair in pairs)
        rows[name]["seconds"] = Summary.of(pair.seconds for pair in pairs)
