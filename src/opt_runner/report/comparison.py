"""Runs as tables: one a task, a row a method, averaged over seeds and compared with `standard`.

Runs stand in one table only if they differ in nothing but method and seed. Runs of another budget,
dataset, network, device or version of the program make another table.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, Literal

from opt_runner.methods import METHODS
from opt_runner.records.result import Result
from opt_runner.records.stored import StoredRun
from opt_runner.report.statistics import (
    CONFIDENCE,
    Difference,
    Mean,
    detectable_difference,
    holm,
)

BASELINE = "standard"

Reduce = Callable[[Sequence[float]], float]  # of the values of several layers


@dataclass(frozen=True)
class Row:
    """A method with its options: its runs, one a seed.

    label: unique in its table. colour: the one that the method states; None where it states none.
    """

    label: str
    runs: Sequence[StoredRun]
    colour: str | None = None

    @property
    def method(self) -> str:
        return self.runs[0].method

    @property
    def family(self) -> str:
        """What the method is akin to; `other` for plain training and a user's own."""
        method = METHODS.get(self.method)
        return (method.family if method else None) or "other"

    @cached_property
    def finished(self) -> dict[int, Result]:
        """The results of the finished runs by seed."""
        return {r.seed: r.result for r in self.runs if r.result and r.status == "finished"}

    def values(self, name: str) -> dict[int, float]:
        """A field of the finished results by seed, where it is known."""
        found = {seed: getattr(result, name) for seed, result in self.finished.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, name: str) -> Mean | None:
        return Mean.of(list(self.values(name).values()))

    def mean_difference(self, name: str, other: str) -> Mean | None:
        """Of one field minus another."""
        values, others = self.values(name), self.values(other)
        return Mean.of([values[seed] - others[seed] for seed in values.keys() & others])

    def largest(self, name: str) -> float | None:
        return max(self.values(name).values(), default=None)

    def layers(self, name: str, reduce: Reduce) -> tuple[Mean | None, Mean | None]:
        """Before and after training, see `before_and_after`."""
        pairs = self._pairs(name, reduce)
        return Mean.of([before for before, _ in pairs]), Mean.of([after for _, after in pairs])

    def _pairs(self, name: str, reduce: Reduce) -> list[tuple[float, float]]:
        found = [before_and_after(result, name, reduce) for result in self.finished.values()]
        return [pair for pair in found if pair is not None]

    def measured(self, name: str) -> float | None:
        """The largest over seeds of a value that the method measures, see `Method.measure`."""
        found = [result.measured.get(name) for result in self.finished.values()]
        return max((value for value in found if value is not None), default=None)


def before_and_after(result: Result, name: str, reduce: Reduce) -> tuple[float, float] | None:
    """Return a geometric value {layer: value} before and after training, each as one number.

    Layers without a value at the start do not count: some measures are not defined for all sizes.
    None where nothing is known, or a layer has lost its value (records keep NaN as null).
    """
    start, end = getattr(result.start, name, None), getattr(result.end, name, None)
    layers = known_layers(start)
    before, after = reduced(start, layers, reduce), reduced(end, layers, reduce)
    return None if before is None or after is None else (before, after)


def known_layers(values: Any) -> list[str]:
    """The layers that have a value in {layer: value}."""
    return [k for k, v in values.items() if is_number(v)] if isinstance(values, dict) else []


def reduced(values: Any, layers: Sequence[str], reduce: Reduce) -> float | None:
    """The values of `layers` in {layer: value} as one number; None where one is missing."""
    if not layers or not set(layers) <= set(known_layers(values)):
        return None
    return reduce([values[layer] for layer in layers])


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class Comparison:
    """One table. differs: keys and values that distinguish it from the other tables."""

    dataset: str
    model: str
    differs: dict[str, Any]
    rows: Sequence[Row]

    @property
    def title(self) -> str:
        extra = "".join(f", {key}={_text(value)}" for key, value in self.differs.items())
        steps = {result.steps for row in self.rows for result in row.finished.values()}
        budget = f", {steps.pop():,} steps" if len(steps) == 1 else ""
        return f"{self.dataset}, {self.model}{budget}{extra}"

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({run.seed for row in self.rows for run in row.runs})

    @cached_property
    def baseline(self) -> Row | None:
        """The row of `standard`; None where there is none, or several with different options."""
        rows = [row for row in self.rows if row.method == BASELINE]
        return rows[0] if len(rows) == 1 else None

    def difference(self, row: Row) -> Difference | None:
        """Test error of `row` minus that of `standard`, paired by seed."""
        if self.baseline is None or row is self.baseline:
            return None
        return Difference.paired(row.values("test_error"), self.baseline.values("test_error"))

    def corrected_p(self, row: Row) -> float | None:
        """p of the difference, by Holm's correction for all rows that are compared."""
        return self._corrected.get(row.label)

    @cached_property
    def _corrected(self) -> dict[str, float]:
        """By label. A method whose p cannot be told counts as one that was compared."""
        found = {row.label: self.difference(row) for row in self.rows}
        ps = {name: one.p for name, one in found.items() if one and one.n > 1}
        corrected = holm([1.0 if p is None else p for p in ps.values()])
        every = zip(ps.items(), corrected, strict=True)
        return {name: p for (name, own), p in every if own is not None}

    @cached_property
    def best(self) -> Row | None:
        """The row furthest below `standard`, among those whose corrected p is below 0.05 and whose
        runs have all finished: a method that fails with one seed is not the best."""
        below = [
            (difference.mean, row)
            for row in self.rows
            if (difference := self.difference(row)) is not None
            and (p := self.corrected_p(row)) is not None
            and p < 1 - CONFIDENCE
            and difference.mean < 0
            and not self.unfinished(row)
        ]
        return min(below, key=lambda pair: pair[0])[1] if below else None

    @cached_property
    def power(self) -> str | None:
        """What difference to `standard` these runs could have shown, in words."""
        found = [self.difference(row) for row in self.rows]
        stds = [one.std for one in found if one and one.std]
        counts = [one.n for one in found if one and one.std]
        if not stds:
            return None
        std, n = math.sqrt(fmean(std**2 for std in stds)), min(counts)
        alone = detectable_difference(n, std, 1 - CONFIDENCE)
        text = (
            f"With {n} seeds a true difference of {alone:.3g} points would be found in 4 of 5 such "
            f"comparisons with standard (the differences of single seeds spread by {std:.2g})"
        )
        tests = sum(one is not None and one.n > 1 for one in found)
        if tests > 1:
            together = detectable_difference(n, std, (1 - CONFIDENCE) / tests)
            least = f"one of {together:.3g}" if together < 100 else "none"
            text += f", {least} if it must stand out among {tests} methods"
        return text + "."

    def unfinished(self, row: Row) -> dict[str, list[int]]:
        """Seeds without a finished run, by status; `missing` if only other rows have it."""
        seeds: dict[str, list[int]] = defaultdict(list)
        for run in row.runs:
            if run.status != "finished":
                seeds[run.status].append(run.seed)
        missing = sorted(set(self.seeds) - {run.seed for run in row.runs})
        return {**seeds, "missing": missing} if missing else dict(seeds)


def compare(runs: Iterable[StoredRun]) -> list[Comparison]:
    """The tables of these runs, largest first."""
    runs = list(runs)
    versions: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for run in runs:
        if run.versions:
            versions[_key(run.task_keys)].add(run.versions)
    tasks: dict[str, list[StoredRun]] = defaultdict(list)
    for run in runs:
        task = _key(run.task_keys)
        # A run that failed too early to know its versions joins the first table of its task.
        version = run.versions or min(versions[task], default=())
        tasks[task + _key(version)].append(run)
    groups = sorted(tasks.values(), key=len, reverse=True)
    same_names: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for group in groups:
        same_names[_names(group)].append(_description(group))
    return [
        Comparison(
            *_names(group), _differing(_description(group), same_names[_names(group)]), _rows(group)
        )
        for group in groups
    ]


def _names(group: Sequence[StoredRun]) -> tuple[str, str]:
    config = group[0].config
    return str(config["dataset"]["name"]), str(config["model"]["name"])


def _description(group: Sequence[StoredRun]) -> dict[str, Any]:
    names = ("opt_runner", "torch", "device", "data")
    versions = next((run.versions for run in group if run.versions), ())
    return {**group[0].task_keys, **dict(zip(names, versions, strict=False))}


def _rows(group: Sequence[StoredRun]) -> list[Row]:
    """Our methods in their own order, then others by name."""
    forms: dict[str, list[StoredRun]] = defaultdict(list)
    for run in group:
        forms[_key(run.method_keys)].append(run)
    order = [*METHODS]

    def place(runs: Sequence[StoredRun]) -> tuple[int, str]:
        name = runs[0].method
        return (order.index(name) if name in order else len(order), name)

    rows = []
    for runs in sorted(forms.values(), key=place):
        # Of a seed that was run again only the last record counts.
        latest = {run.seed: run for run in sorted(runs, key=_written)}
        rows.append([latest[seed] for seed in sorted(latest)])
    labels = _labels(rows)
    return [
        Row(label, runs, _stated(runs, "colour")) for label, runs in zip(labels, rows, strict=True)
    ]


def _labels(rows: Sequence[Sequence[StoredRun]]) -> list[str]:
    """A label a row: the method's, and the options in which rows of one method differ."""
    names = [runs[0].method for runs in rows]
    stated = [_stated(runs, "label") or name for runs, name in zip(rows, names, strict=True)]
    owners = {label: {n for n, s in zip(names, stated, strict=True) if s == label}
              for label in stated}  # fmt: skip
    labels = []
    for runs, name, label in zip(rows, names, stated, strict=True):
        if len(owners[label]) > 1:
            label += f" ({name})"
        same_method = [other[0].method_keys for other in rows if other[0].method == name]
        differs = _differing(runs[0].method_keys, same_method)
        labels.append(label + "".join(f" {key}={_text(value)}" for key, value in differs.items()))
    return labels


def _stated(runs: Sequence[StoredRun], name: Literal["label", "colour"]) -> str | None:
    """What the method says of itself, as its records hold it; those of former releases do not."""
    for run in runs:
        if run.result and (value := getattr(run.result, name)):
            return str(value)
    method = METHODS.get(runs[0].method)
    return getattr(method, name) if method else None


def _written(run: StoredRun) -> float:
    path = run.record.result if run.record.result.exists() else run.record.config
    return path.stat().st_mtime


def _differing(one: dict[str, Any], every: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The keys of `one` whose values are not the same in all of `every`."""
    return {
        key: value for key, value in one.items() if any(other.get(key) != value for other in every)
    }


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
