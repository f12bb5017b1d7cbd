"""One layer, forward and backward: our rotations against the alternatives, side by side."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from rich.table import Table

from opt_runner.bench import libraries, naive
from opt_runner.bench.one_layer import (
    Layer,
    by_autograd,
    by_parametrization,
    naive_ogd,
    naive_or,
    ours,
)
from opt_runner.bench.report import Report, Row, table, verdict
from opt_runner.bench.settings import Settings
from opt_runner.bench.summary import Summary, figure
from opt_runner.bench.timing import Task, first_line, interleaved, sampler
from opt_runner.console.screen import say
from opt_runner.methods import METHODS, Method
from opt_runner.methods.sopt import StochasticOPT

_COLUMNS = 64
# Of what takes longer than this together, three samples are enough.
_BUDGET = 10.0


@dataclass(frozen=True)
class Alternative:
    """Another way to the rotation of `variant`, or the nearest thing to it.

    limit: how many times as fast ours must be, at least.
    """

    name: str
    variant: str
    build: Callable[[Layer], Task]
    limit: float | None = None


def _torch(orthogonal_map: str) -> Callable[[Layer], Task]:
    return lambda layer: by_parametrization(libraries.torch_layer(layer.R, orthogonal_map), layer)


def _geotorch(triv: str) -> Callable[[Layer], Task]:
    return lambda layer: by_parametrization(libraries.geotorch_layer(layer.R, triv), layer)


def _naive(form: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Layer], Task]:
    return partial(by_autograd, form)


ALTERNATIVES = (
    Alternative("torch cayley", "cayley", _torch("cayley"), limit=2.5),
    Alternative("torch matrix_exp", "cayley", _torch("matrix_exp")),
    Alternative("torch householder", "hr", _torch("householder"), limit=2.5),
    Alternative("Gram-Schmidt loop", "gs", _naive(naive.gram_schmidt_loop), limit=30),
    Alternative("QR, autograd", "gs", _naive(naive.gram_schmidt_qr)),
    Alternative("Householder loop", "hr", _naive(naive.householder_loop), limit=30),
    Alternative("SVD, autograd", "ls", _naive(naive.lowdin_svd)),
    Alternative("inverse, autograd", "cayley", _naive(naive.cayley_inverse)),
    Alternative("dense retraction", "ogd", naive_ogd),
    Alternative("penalty, autograd", "or", naive_or),
)

GEOTORCH = (
    Alternative("geotorch cayley", "cayley", _geotorch("cayley"), limit=2.5),
    Alternative("geotorch expm", "cayley", _geotorch("expm")),
)

# sopt with each map that it can have inside.
_SOPT: dict[str, dict[str, Any]] = {
    f"sopt ({inner})": {"inner": inner} for inner in ("gs", "hr", "ls", "cayley")
}
# Our methods by the names that they have in the tables.
OURS: dict[str, Method] = {
    **{name: cls() for name, cls in METHODS.items() if cls.rotates and name != "sopt"},
    **{name: StochasticOPT(**options) for name, options in _SOPT.items()},
}


def run(settings: Settings) -> Report:
    report = Report(n=settings.count(15))
    for d in (16, 24) if settings.quick else (576, 1024):
        say(f"rotations: d = {d}, n = {report.n}")
        rows = _size(d, report.n, settings)
        report.rows += rows
        report.tables += [_ours_table(d, rows), _alternatives_table(d, rows)]
    report.notes += [
        f"forward and backward of one layer d x {_COLUMNS}, float32, in one process, samples "
        f"interleaved; n is smaller, but at least 3, where the samples took over {_BUDGET:g} s",
        "ogd includes its optimizer's step and `or` its penalty, ours and the other form alike; "
        "R moves between samples, untimed",
        "matrix_exp and expm have no counterpart among ours: they stand beside cayley, which "
        "parametrizes the same group by the same skew-symmetric matrices",
    ]
    if not libraries.has_geotorch():
        report.notes.append("geotorch is not installed (pip install 'opt-runner[bench]'): left out")
    return report


def _size(d: int, samples: int, settings: Settings) -> list[Row]:
    """Rows of ours, then of the alternatives with how many times as long as ours they take."""
    device = settings.hardware.device
    layer = Layer.of(d, _COLUMNS, device)
    samplers = {name: sampler(ours(method, layer), device) for name, method in OURS.items()}
    alternatives = [*ALTERNATIVES, *(GEOTORCH if libraries.has_geotorch() else ())]
    errors: dict[str, str] = {}
    for alternative in alternatives:
        try:
            samplers[alternative.name] = sampler(alternative.build(layer), device)
        except Exception as error:  # Not every form runs on every device.
            errors[alternative.name] = first_line(error)
    seconds = interleaved(samplers, samples, _BUDGET)
    summaries = {name: Summary.of(taken) for name, taken in seconds.items()}
    rows: list[Row] = []
    for name in OURS:
        row: Row = {"d": d, "columns": _COLUMNS, "ours": True, "name": name}
        rows.append({**row, "seconds": asdict(summaries[name])})
    for alternative in alternatives:
        row = {
            "d": d,
            "columns": _COLUMNS,
            "ours": False,
            "name": alternative.name,
            "variant": alternative.variant,
            "limit": alternative.limit,
            "error": errors.get(alternative.name),
        }
        if alternative.name in summaries:
            theirs = summaries[alternative.name]
            factor = theirs.median / summaries[alternative.variant].median
            row |= {
                "seconds": asdict(theirs),
                "factor": factor,
                "met": None if alternative.limit is None else factor >= alternative.limit,
            }
        rows.append(row)
    return rows


def _ours_table(d: int, rows: list[Row]) -> Table:
    cells = []
    for row in rows:
        if row["ours"]:
            seconds = Summary(**row["seconds"])
            cells.append([row["name"], seconds.text(scale=1000), str(seconds.n)])
    title = f"Our rotations, d = {d}, {_COLUMNS} columns: median [quartiles]"
    return table(title, ["method", "ms", "n"], cells)


def _alternatives_table(d: int, rows: list[Row]) -> Table:
    cells = []
    for row in rows:
        if row["ours"]:
            continue
        if row["error"]:
            cells.append([row["name"], row["error"]])
            continue
        seconds = Summary(**row["seconds"])
        cells.append(
            [
                row["name"],
                seconds.text(scale=1000),
                str(seconds.n),
                row["variant"],
                figure(row["factor"]),
                f"{row['limit']:g}" if row["limit"] else "",
                verdict(row["met"]),
            ]
        )
    title = f"The alternatives, d = {d}, {_COLUMNS} columns: median [quartiles]"
    headings = ["form", "ms", "n", "beside", "times ours", "at least", "met"]
    return table(title, headings, cells)
