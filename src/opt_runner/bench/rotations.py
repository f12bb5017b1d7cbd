"""One layer, forward and backward: our rotations against the alternatives, side by side."""

from importlib.util import find_spec

from opt_runner.bench import limits
from opt_runner.bench.one_layer import ALTERNATIVES, GEOTORCH, OURS, Layer, samplers_of
from opt_runner.bench.part import LIMIT, Column, Report, Row, Settings, spread, table, text
from opt_runner.bench.samples import Summary, figure, interleaved

_COLUMNS = 64
# Of what takes longer than this together, three samples are enough.
_BUDGET = 10.0

_FIGURES: dict[str, Column] = {
    "ms": spread("seconds", scale=1000),
    "n": lambda row: str(row["seconds"].n),
}
_COMPARED: dict[str, Column] = {
    "beside": text("variant"),
    "times ours": lambda row: figure(row["factor"]),
    **LIMIT,
}


def run(settings: Settings) -> Report:
    report = Report(n=settings.count(15))
    for d in (16, 24) if settings.quick else (576, 1024):
        settings.screen.say(f"rotations: d = {d}, n = {report.n}")
        of_ours, of_others = _size(d, report.n, settings)
        sizes = f"d = {d}, {_COLUMNS} columns: median [quartiles]"
        report.rows += of_ours + of_others
        report.tables += [
            table(f"Our rotations, {sizes}", {"method": text("name"), **_FIGURES}, of_ours),
            table(
                f"The alternatives, {sizes}",
                {"form": text("name"), **_FIGURES, **_COMPARED},
                of_others,
            ),
        ]
    report.notes += [
        f"forward and backward of one layer d x {_COLUMNS}, float32, in one process, samples "
        f"interleaved; n is smaller, but at least 3, where the samples took over {_BUDGET:g} s",
        "ogd includes its optimizer's step and `or` its penalty, ours and the other form alike; "
        "R moves between samples, untimed",
        "matrix_exp and expm have no counterpart among ours: they stand beside cayley, which "
        "parametrizes the same group by the same skew-symmetric matrices",
        *limits.notes("times ours"),
    ]
    if not has_geotorch():
        report.notes.append("geotorch is not installed (pip install 'opt-runner[bench]'): left out")
    return report


def has_geotorch() -> bool:
    return find_spec("geotorch") is not None


def _size(d: int, samples: int, settings: Settings) -> tuple[list[Row], list[Row]]:
    """Rows of ours, and of the alternatives with how many times as long as ours they take."""
    device = settings.device.torch_device
    layer = Layer.of(d, _COLUMNS, device)
    alternatives = [*ALTERNATIVES, *(GEOTORCH if has_geotorch() else ())]
    ways = {**OURS, **{other.name: other.build for other in alternatives}}
    samplers, errors = samplers_of(ways, layer, device)
    if failed := errors.keys() & OURS.keys():
        raise RuntimeError(f"d = {d}: " + "; ".join(f"{name}: {errors[name]}" for name in failed))
    seconds = interleaved(samplers, samples, _BUDGET)
    summaries = {name: Summary.of(taken) for name, taken in seconds.items()}

    sizes = {"d": d, "columns": _COLUMNS}
    of_ours = [{**sizes, "ours": True, "name": name, "seconds": summaries[name]} for name in OURS]
    of_others: list[Row] = []
    for other in alternatives:
        row = {**sizes, "ours": False, "name": other.name, "variant": other.variant}
        row["error"] = errors.get(other.name)
        if other.name in summaries:
            factor = summaries[other.name].median / summaries[other.variant].median
            row |= {"seconds": summaries[other.name], "factor": factor}
            row |= limits.judged("times ours", factor, other.name)
        of_others.append(row)
    return of_ours, of_others
