"""The table at the end of a sweep: a row a cell, from the results on disk."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from opt_runner.records import Result

_STYLE = {"finished": "", "diverged": "yellow", "failed": "red", "interrupted": "yellow"}


def cells(results: Sequence[Result]) -> Table:
    """One row a cell. Columns that are the same in every row go to the title."""
    table = Table(title=_title(results), title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    varying = [key for key in ("dataset", "model", "seed") if _varies(results, key)]
    table.add_column("method")
    for key in varying:
        table.add_column(key)
    for heading in ("steps", "test error %", "best %", "train loss", "energy", "|QᵀQ-I|",
                    "images/s", "seconds"):  # fmt: skip
        table.add_column(heading, justify="right")
    table.add_column("status")
    for result in results:
        table.add_row(
            result.method,
            *(str(getattr(result, key)) for key in varying),
            str(result.steps),
            _number(result.test_error, ".2f"),
            _number(result.best_test_error, ".2f"),
            _number(result.train_loss, ".4f"),
            _energy_change(result),
            _number(result.orthogonality_error, ".1e"),
            _number(result.images_per_second, ",.0f"),
            _number(result.seconds, ".1f"),
            Text(result.status, style=_STYLE[result.status]),
        )
    return table


def faults(results: Sequence[Result]) -> list[str]:
    """A line for each cell that did not finish."""
    return [
        f"{r.method} {r.model} {r.dataset} seed {r.seed}: {r.status}: "
        + (r.error or "").splitlines()[0]
        for r in results
        if r.status != "finished" and r.error
    ]


def _title(results: Sequence[Result]) -> str:
    same = [key for key in ("dataset", "model", "seed") if not _varies(results, key)]
    return ", ".join(
        f"seed {results[0].seed}" if key == "seed" else str(getattr(results[0], key))
        for key in same
    )


def _varies(results: Sequence[Result], key: str) -> bool:
    return len({getattr(result, key) for result in results}) > 1


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _energy_change(result: Result) -> str:
    """Change of the hyperspherical energy, summed over layers, from start to end in percent."""
    starts, ends = (result.energy_start or {}).values(), (result.energy_end or {}).values()
    if not starts or not ends or None in starts or None in ends:
        return "-"
    start, end = sum(starts), sum(ends)
    return f"{100 * (end / start - 1):+.3f}%"
