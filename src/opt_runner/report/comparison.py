"""Cells as tables: one a task, a row a method, averaged over seeds and set against `standard`.

Only what differs in nothing but method and seed stands in one table: cells of another budget,
dataset, network or version of the program are another table.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from opt_runner.methods import METHODS
from opt_runner.records.result import Result
from opt_runner.records.stored import StoredRun
from opt_runner.report.statistics import Difference, Mean

BASELINE = "standard"


@dataclass(frozen=True)
class Row:
    """A method with its options: its cells, one a seed."""

    label: str
    cells: Sequence[StoredRun]

    @property
    def method(self) -> str:
        return self.cells[0].method

    @cached_property
    def finished(self) -> dict[int, Result]:
        """The results of finished cells by seed."""
        return {c.seed: c.result for c in self.cells if c.result and c.status == "finished"}

    def values(self, name: str) -> dict[int, float]:
        """A quantity of the finished results by seed, where it is known."""
        found = {seed: getattr(result, name) for seed, result in self.finished.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, name: str) -> Mean | None:
        return Mean.of(list(self.values(name).values()))

    def largest(self, name: str) -> float | None:
        return max(self.values(name).values(), default=None)

    def energy(self, name: str) -> Mean | None:
        """Of `energy_start` or `energy_end`, summed over layers."""
        sums = [_total(getattr(result, name)) for result in self.finished.values()]
        return Mean.of([total for total in sums if total is not None])

    def energy_change(self) -> Mean | None:
        """In percent of where it began."""
        pairs = [(_total(r.energy_start), _total(r.energy_end)) for r in self.finished.values()]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        return Mean.of([100 * (end / start - 1) for start, end in known])


def _total(layers: dict[str, float] | None) -> float | None:
    """The sum over layers; None where one is not known, as records hold null for NaN."""
    values = list((layers or {}).values())
    return sum(values) if values and None not in values else None


@dataclass(frozen=True)
class Comparison:
    """One table. differs: keys and values that tell it from the other tables."""

    dataset: str
    model: str
    differs: dict[str, Any]
    rows: Sequence[Row]

    @property
    def title(self) -> str:
        extra = "".join(f", {key}={_shown(value)}" for key, value in self.differs.items())
        steps = {result.steps for row in self.rows for result in row.finished.values()}
        budget = f", {steps.pop():,} steps" if len(steps) == 1 else ""
        return f"{self.dataset}, {self.model}{budget}{extra}"

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({cell.seed for row in self.rows for cell in row.cells})

    @cached_property
    def baseline(self) -> Row | None:
        """The row of `standard`; None where there is none, or several forms of it."""
        rows = [row for row in self.rows if row.method == BASELINE]
        return rows[0] if len(rows) == 1 else None

    def difference(self, row: Row) -> Difference | None:
        """Of the test error to `standard`'s, paired by seed."""
        if self.baseline is None or row is self.baseline:
            return None
        return Difference.paired(row.values("test_error"), self.baseline.values("test_error"))

    @cached_property
    def best(self) -> Row | None:
        """The row furthest below `standard`, of those whose interval lies below zero and of whose
        seeds none is missing: a method that is lost on one seed is not the best."""
        below = [
            (difference.mean, row)
            for row in self.rows
            if (difference := self.difference(row)) is not None
            and difference.clears_zero
            and difference.mean < 0
            and not self.unfinished(row)
        ]
        return min(below, key=lambda pair: pair[0])[1] if below else None

    def unfinished(self, row: Row) -> dict[str, list[int]]:
        """Seeds without a finished cell by status; `missing` where other rows have the seed."""
        seeds: dict[str, list[int]] = defaultdict(list)
        for cell in row.cells:
            if cell.status != "finished":
                seeds[cell.status].append(cell.seed)
        missing = sorted(set(self.seeds) - {cell.seed for cell in row.cells})
        return {**seeds, "missing": missing} if missing else dict(seeds)

    def columns(self, brief: bool = False) -> "list[Column]":
        """Those of all columns, or of the terminal's, in which some row says something."""
        return [
            (heading, cell)
            for heading, cell in (brief_columns() if brief else columns())
            if any(cell(self, row) != "-" for row in self.rows)
        ]


def compare(cells: Iterable[StoredRun]) -> list[Comparison]:
    """The tables of these cells, largest first."""
    tasks: dict[str, list[StoredRun]] = defaultdict(list)
    versions: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    cells = list(cells)
    for cell in cells:
        if cell.versions:
            versions[_key(cell.task_keys)].add(cell.versions)
    for cell in cells:
        task = _key(cell.task_keys)
        # A cell that did not get far enough to have a version stands with the first that did.
        version = cell.versions or min(versions[task], default=())
        tasks[task + _key(version)].append(cell)
    groups = sorted(tasks.values(), key=len, reverse=True)
    named: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for group in groups:
        named[_names(group)].append(_description(group))
    return [
        Comparison(
            *_names(group), _differing(_description(group), named[_names(group)]), _rows(group)
        )
        for group in groups
    ]


def _names(group: list[StoredRun]) -> tuple[str, str]:
    config = group[0].config
    return str(config["dataset"]["name"]), str(config["model"]["name"])


def _description(group: list[StoredRun]) -> dict[str, Any]:
    names = ("opt_runner", "torch", "device", "data")
    version = next((cell.versions for cell in group if cell.versions), ())
    return {**group[0].task_keys, **dict(zip(names, version, strict=False))}


def _rows(group: list[StoredRun]) -> list[Row]:
    forms: dict[str, list[StoredRun]] = defaultdict(list)
    for cell in group:
        forms[_key(cell.method_keys)].append(cell)
    order = [*METHODS]

    def place(cells: list[StoredRun]) -> tuple[int, str]:
        name = cells[0].method
        return (order.index(name) if name in order else len(order), name)

    ordered = sorted(forms.values(), key=place)
    count = Counter(cells[0].method for cells in ordered)
    rows = []
    for cells in ordered:
        name, label = cells[0].method, cells[0].method
        if count[name] > 1:
            rivals = [c[0].method_keys for c in ordered if c[0].method == name]
            differs = _differing(cells[0].method_keys, rivals)
            label += "".join(f" {key}={_shown(value)}" for key, value in differs.items())
        # Of a seed that was run again only the last record counts.
        latest = {cell.seed: cell for cell in sorted(cells, key=_written)}
        rows.append(Row(label, [latest[seed] for seed in sorted(latest)]))
    return rows


def _written(cell: StoredRun) -> float:
    path = cell.record.result if cell.record.result.exists() else cell.record.config
    return path.stat().st_mtime


def _differing(one: dict[str, Any], all_: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What of `one` is not the same in all; not names, which stand in the title anyway."""
    return {
        key: value
        for key, value in one.items()
        if not key.endswith((".name", "._target_"))
        and any(other.get(key, None) != value for other in all_)
    }


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(map(_shown, value)) + "]"
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


Column = tuple[str, Callable[[Comparison, Row], str]]


def columns() -> list[Column]:
    """Headings and cells of a table, as text; the same in every file."""
    return [
        *_compared(),
        ("best %", lambda _, row: mean(row.mean("test_error_at_best"), 2)),
        ("validation %", lambda _, row: mean(row.mean("validation_error"), 2)),
        ("train loss", lambda _, row: mean(row.mean("train_loss"), 4)),
        ("energy before", lambda _, row: number(row.energy("energy_start"), ",.1f")),
        ("after", lambda _, row: number(row.energy("energy_end"), ",.1f")),
        ("change", lambda _, row: number(row.energy_change(), "+z.3f", "%")),
        ("|QᵀQ-I|", lambda _, row: plain(row.largest("orthogonality_error"), ".1e")),
        ("trainable", lambda _, row: number(row.mean("trainable_parameters"), ",.0f")),
        ("images/s", lambda _, row: number(row.mean("images_per_second"), ",.0f")),
        ("steps", lambda _, row: number(row.mean("steps"), ",.0f")),
        ("seconds", lambda _, row: number(row.mean("seconds"), ",.1f")),
        ("n", lambda table, row: count(table, row)),
    ]


def brief_columns() -> list[Column]:
    """What fits into a terminal."""
    return [
        *_compared(),
        ("best %", lambda _, row: number(row.mean("test_error_at_best"), ".2f")),
        ("train loss", lambda _, row: number(row.mean("train_loss"), ".4f")),
        ("energy", lambda _, row: number(row.energy_change(), "+z.3f", "%")),
        ("|QᵀQ-I|", lambda _, row: plain(row.largest("orthogonality_error"), ".1e")),
        ("seconds", lambda _, row: number(row.mean("seconds"), ",.1f")),
        ("n", lambda table, row: count(table, row)),
    ]


def _compared() -> list[Column]:
    return [
        ("method", lambda _, row: row.label),
        ("test error %", lambda _, row: mean(row.mean("test_error"), 2)),
        ("minus standard [95%]", lambda table, row: difference(table.difference(row))),
    ]


def mean(value: Mean | None, digits: int) -> str:
    if value is None:
        return "-"
    spread = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{spread}"


def difference(value: Difference | None) -> str:
    if value is None:
        return "-"
    if value.low is None:
        return f"{value.mean:+.2f}"
    return f"{value.mean:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"


def number(value: Mean | None, form: str, unit: str = "") -> str:
    return "-" if value is None else format(value.mean, form) + unit


def plain(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def count(table: Comparison, row: Row) -> str:
    """`3`, or `1 of 3: 1 failed, 1 missing`."""
    n, faults = len(row.finished), table.unfinished(row)
    if not faults:
        return str(n)
    told = ", ".join(f"{len(seeds)} {status}" for status, seeds in faults.items())
    return f"{n} of {len(table.seeds)}: {told}"


NOTES = (
    "mean ± standard deviation over n seeds that finished; test error at the last step; best: "
    "after the step of the best validation error, where images are held back for validation",
    "minus standard: mean difference over the seeds that both finished, with the 95% interval of "
    "Student's t, one method at a time; the best row is marked only where its interval lies below "
    "zero and none of its seeds is missing",
    "energy: hyperspherical, summed over layers; |QᵀQ-I|: its largest entry over layers and seeds",
)
