"""OPT on networks with large layers: the plan of a step, from its shapes, and its measurement."""

from benchmarks import memory
from benchmarks.report import Column, Report, Row, Settings, say, table
from benchmarks.samples import figure
from benchmarks.steps import PEAK, TIMES, times
from benchmarks.workloads import WORKLOADS
from opt_runner.run.size import memory_of_step

NETWORKS = ("resnet18", "wide_resnet", "convnext_tiny", "vit_tiny")

_UP_TO = "layers.max_d=1152"
_BEYOND = "layers.rest=[{method: sopt, options: {share: 0.1}}]"
# Arguments of opt-run. Layers larger than the limit in a name are plain, or rotated by S-OPT in a
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
# A process each is slow to start: one method of each kind.
_MEMORY_OF = ("standard", "cayley", "cayley, d <= 1,152")
# A method that needs more memory than this, in that of plain training, is only planned: a step with
# so large R takes minutes.
_MOST = 2.0

_COLUMNS: dict[str, Column] = {
    "method": "method",
    "planned MiB": ("memory", 2**-20),
    **TIMES,
    **PEAK,
    "": "why",
}


def run(settings: Settings) -> Report:
    """Make a table a network. Raises UserError for an unknown network."""
    report = Report(n=settings.count(3))
    chosen = settings.networks_of(NETWORKS, NETWORKS)
    for network in ["cnn9_tiny"] if settings.quick else chosen:
        rows = _rows(network, report.n, settings)
        report.rows += rows
        batch = rows[0]["batch_size"]
        title = f"One training step of {network}, batch {batch}; median [quartiles], n = {report.n}"
        report.tables.append(table(title, _COLUMNS, rows))
    report.notes = [
        "ratio: a sample by the mean of the samples of `standard` right before and after it",
        "planned MiB: memory of a step, from the shapes, as `plan.measure=true` shows it",
        f"not measured: methods that need more than {_MOST:g} times the memory of plain training",
        memory.HOW[settings.used.torch_device.type],
    ]
    return report


def _rows(network: str, samples: int, settings: Settings) -> list[Row]:
    workload, arguments, used = WORKLOADS[network], settings.arguments, settings.used
    images = workload.images_for(*arguments)
    planned = {
        name: memory_of_step(workload.config(*METHODS[name], *arguments), images, used.torch_device)
        for name in (_MEMORY_OF[::2] if settings.quick else METHODS)
    }
    plain = planned["standard"]
    rows: dict[str, Row] = {}
    for name, bytes_ in planned.items():
        if "," in name and bytes_ is not None and bytes_ == planned.get(name.partition(",")[0]):
            continue  # no layer is larger than the limit
        rows[name] = {"network": network, "method": name, "error": None, "memory": bytes_}
        if bytes_ and plain and (factor := bytes_ / plain) > _MOST:
            rows[name]["why"] = f"not measured: {figure(factor)} times the memory"
    say(f"networks: steps of {network}, n = {samples}")
    within = {name: METHODS[name] for name, row in rows.items() if "why" not in row}
    for row in times(network, within, images, samples, settings):
        rows[row["method"]] |= row
    for name in _MEMORY_OF:
        if name in within and not rows[name]["error"]:
            say(f"networks: peak memory of {network}, {name}")
            row = memory.row_of(network, name, METHODS[name], 1, settings)
            rows[name] |= {"peak_bytes": row.get("peak_bytes"), "why": row["error"]}
    return list(rows.values())
