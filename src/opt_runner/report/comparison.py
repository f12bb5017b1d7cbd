"""A table: a row for each method, averaged over seeds and compared with `standard`."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from statistics import fmean
from typing import Any

from opt_runner.config.schema import as_typed
from opt_runner.datasets.data import Measure
from opt_runner.methods import METHODS
from opt_runner.records.result import Result
from opt_runner.records.stored import StoredRun
from opt_runner.report.statistics import (
    CONFIDENCE,
    POWER,
    Difference,
    Mean,
    detectable_difference,
    holm,
)

BASELINE = "standard"
_FIELDS = frozenset(field.name for field in fields(Result))
_NAMED = 3  # the largest number of rows that a sentence names

Reduce = Callable[[Sequence[float]], float]  # turns the values of several layers into one number


@dataclass(frozen=True, eq=False)
class TableRow:
    """The runs of a method with one set of options, one for each seed.

    label: unique in its table. colour: the method's own as #rrggbb, or None.
    """

    label: str
    runs: Sequence[StoredRun]
    colour: str | None = None

    @property
    def method(self) -> str:
        return self.runs[0].method

    @property
    def family(self) -> str:
        """Return the method's family, `other` for plain training and for a user's method."""
        method = METHODS.get(self.method)
        return (method.family if method else None) or "other"

    @cached_property
    def finished(self) -> dict[int, Result]:
        return {r.seed: r.result for r in self.runs if r.result and r.status == "finished"}

    def values(self, name: str) -> dict[int, float]:
        """Return a field or a number of the test samples by seed, of the results that have it."""
        found = {
            seed: result.tested.get(name) if name not in _FIELDS else getattr(result, name)
            for seed, result in self.finished.items()
        }
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, name: str) -> Mean | None:
        """Return the mean over seeds; None if a finished run lacks the number."""
        values = [*self.values(name).values()]
        return Mean.of(values) if len(values) == len(self.finished) else None

    def gap(self) -> Mean | None:
        test, train = self.values("test_error"), self.values("train_error")
        return Mean.of([test[seed] - train[seed] for seed in test.keys() & train])

    def layers(self, name: str, reduce: Reduce) -> tuple[Mean | None, Mean | None]:
        """Return the mean before and the mean after training, see `before_and_after`."""
        found = [before_and_after(result, name, reduce) for result in self.finished.values()]
        pairs = [pair for pair in found if pair is not None]
        return Mean.of([before for before, _ in pairs]), Mean.of([after for _, after in pairs])

    def measured(self, name: str) -> float | None:
        """Return the largest value over seeds of a `Method.measure`."""
        found = [result.measured.get(name) for result in self.finished.values()]
        return max((value for value in found if value is not None), default=None)


def before_and_after(result: Result, name: str, reduce: Reduce) -> tuple[float, float] | None:
    """Return a geometric value {layer: value} before and after training, each as one number."""
    start, end = getattr(result.start, name, None), getattr(result.end, name, None)
    before, after = reduced(start, start, reduce), reduced(end, start, reduce)
    return None if before is None or after is None else (before, after)


def reduced(values: Any, start: Any, reduce: Reduce) -> float | None:
    """Return {layer: value} as one number, from the layers that have a value at the start.

    Some measures are not defined for all sizes of layers. Return None if nothing is known, or if a
    layer has lost its value (NaN, which is null in records).
    """
    if not isinstance(values, dict) or not isinstance(start, dict):
        return None
    found: list[Any] = [values.get(layer) for layer, value in start.items() if is_number(value)]
    return reduce(found) if found and all(map(is_number, found)) else None


def is_number(value: Any) -> bool:
    """Return True for a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A table. differs: the keys and values that distinguish it from the other tables."""

    dataset: str
    model: str
    differs: dict[str, Any]
    rows: Sequence[TableRow]

    @cached_property
    def title(self) -> str:
        """Return dataset, network, budget and everything that distinguishes the table, in words."""
        extra = "".join(f", {key}={as_typed(value)}" for key, value in self.differs.items())
        steps = {result.steps for row in self.rows for result in row.finished.values()}
        budget = f", {steps.pop():,} steps" if len(steps) == 1 else ""
        return f"{self.dataset}, {self.model}{budget}{extra}"

    @cached_property
    def measure(self) -> Measure:
        found = (result.measure for row in self.rows for result in row.finished.values())
        return next(found, Measure())

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({run.seed for row in self.rows for run in row.runs})

    @cached_property
    def baseline(self) -> TableRow | None:
        """Return the row of `standard`; None if there is none, or several with other options."""
        rows = [row for row in self.rows if row.method == BASELINE]
        return rows[0] if len(rows) == 1 else None

    @cached_property
    def differences(self) -> dict[TableRow, Difference]:
        """Return the test error of each row minus that of `standard`, paired by seed."""
        plain = self.baseline.values("test_error") if self.baseline else {}
        others = [row for row in self.rows if row is not self.baseline]
        found = {row: Difference.paired(row.values("test_error"), plain) for row in others}
        return {row: one for row, one in found.items() if one is not None}

    @cached_property
    def corrected(self) -> dict[TableRow, float]:
        """Return the p of the differences, by Holm's correction for all rows that are compared."""
        # A method whose seeds all differ equally has no p, but was compared.
        ps = {row: one.p for row, one in self.differences.items() if one.n > 1}
        corrected = holm([1.0 if p is None else p for p in ps.values()])
        every = zip(ps.items(), corrected, strict=True)
        return {row: p for (row, own), p in every if own is not None}

    @cached_property
    def best(self) -> TableRow | None:
        """Return the row furthest below `standard` among the significant rows.

        Their corrected p is below 0.05 and all their runs have finished: a method that fails with
        one seed is not the best.
        """
        means = {
            row: self.differences[row].mean
            for row, p in self.corrected.items()
            if p < 1 - CONFIDENCE and not self.unfinished(row)
        }
        lowest = min(means, key=means.__getitem__, default=None)
        return lowest if lowest and means[lowest] < 0 else None

    @cached_property
    def above_best(self) -> str | None:
        """Return in words why rows with a lower test error than the bold row are not bold."""
        own = self.best and self.best.mean("test_error")
        if not own:
            return None
        lower = [row for row in self.rows if (m := row.mean("test_error")) and m.mean < own.mean]
        if not lower:
            return None
        told = [f"{row.label} ({self._why_not_best(row)})" for row in lower[:_NAMED]]
        more = f" and {len(lower) - _NAMED} more" if len(lower) > _NAMED else ""
        return f"Lower than the bold row, but not bold: {', '.join(told)}{more}."

    def _why_not_best(self, row: TableRow) -> str:
        p = self.corrected.get(row)
        if self.unfinished(row):
            return f"{len(row.finished)} of {len(self.seeds)} runs finished"
        if p is None:
            return "no p"
        return f"p {p:.2g}" if p >= 1 - CONFIDENCE else "not lower on the seeds of standard"

    @cached_property
    def power(self) -> str | None:
        """Return in words the difference to `standard` that these runs could have shown."""
        found = self.differences.values()
        stds = [one.std for one in found if one.std]
        if not stds:
            return None
        std, n = math.sqrt(fmean(std**2 for std in stds)), min(one.n for one in found if one.std)
        alone = detectable_difference(n, std, 1 - CONFIDENCE)
        points = " points" if self.measure.unit == "%" else ""
        text = (
            f"With {n} seeds, the paired t-test detects a true difference of {alone:.3g}{points} "
            f"with {POWER:.0%} power (standard deviation of the paired differences: {std:.2g})"
        )
        tests = sum(one.n > 1 for one in found)
        if tests > 1:
            together = detectable_difference(n, std, (1 - CONFIDENCE) / tests)
            least = f"{together:.3g}{points}" if together < 100 else "no difference below 100"
            text += f"; with correction for {tests} methods, {least}"
        return text + "."

    @cached_property
    def remarks(self) -> list[str]:
        return [text for text in (self.power, self.above_best, self.out_of_patience) if text]

    @cached_property
    def out_of_patience(self) -> str | None:
        """Return in words how many runs ended before their budget."""
        finished = [result for row in self.rows for result in row.finished.values()]
        steps = sorted(result.steps for result in finished if result.stopped)
        if not steps:
            return None
        return (
            f"{len(steps)} of {len(finished)} runs ended early by evaluate.patience, after "
            f"{steps[0]:,} to {steps[-1]:,} steps."
        )

    def unfinished(self, row: TableRow) -> dict[str, list[int]]:
        """Return the unfinished seeds by status, `missing` if only other rows have the seed."""
        seeds: dict[str, list[int]] = defaultdict(list)
        for run in row.runs:
            if run.status != "finished":
                seeds[run.status].append(run.seed)
        missing = sorted(set(self.seeds) - {run.seed for run in row.runs})
        return {**seeds, "missing": missing} if missing else dict(seeds)
