"""The part of a table that its pictures show: rows, their styles, and their metrics."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opt_runner.errors import UserError
from opt_runner.records.reading import parse_json, read_text
from opt_runner.records.stored import StoredRun
from opt_runner.report.comparison import Comparison, Reduce, TableRow, is_number, reduced
from opt_runner.report.figures.canvas import new_figure, wrapped
from opt_runner.report.figures.style import Style, styles

MOST_ROWS = 48

# Pictures show these numbers of a row of metrics, and the change of these geometric values
# {layer: value} since step 0. The values themselves start differently for each seed, and the band
# of the seeds would hide the change.
_NUMBERS = ("test_error", "validation_error", "train_loss", "seconds")
_CHANGES: dict[str, Reduce] = {"half_space_excess": fmean, "largest_cosine": max}
_TITLES = {
    "train_loss": "train loss",
    "half_space_excess": "change of the energy excess",
    "largest_cosine": "change of the largest |cos|",
}


@dataclass(frozen=True)
class Curve:
    """A curve of a row: the mean, lowest and highest value over its seeds at each x.

    place: the row's place in the view. finished: False if no run of the row has finished; then the
    curve ends early.
    """

    place: int
    label: str
    finished: bool
    seeds: int
    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class View:
    """The rows of a table that its pictures show.

    For a large table these are plain training and the rows with the lowest test errors.

    fault: called with a line about each file of metrics that cannot be read.
    """

    def __init__(self, table: Comparison, fault: Callable[[str], None] = lambda line: None) -> None:
        self.table = table
        self.measure = table.measure
        self.rows = _lowest(table)
        self.styles: list[Style] = styles(self.rows)
        self._fault = fault

    def figure(self, note: str, height: float) -> Any:
        """Return an empty figure under the table's title, see `new_figure`."""
        if len(self.rows) < len(self.table.rows):
            shown, every = len(self.rows), len(self.table.rows)
            note += f"; drawn: {shown} of {every} rows, the lowest {self.measure.name} and standard"
        return new_figure(self.table.title, note, height)

    def title(self, name: str) -> str:
        return _TITLES.get(name) or self.measure.axis(name.removesuffix("_error"))

    def values(self, name: str) -> list[dict[int, float]]:
        """Return a field of the results for each row, by seed."""
        return [row.values(name) for row in self.rows]

    @cached_property
    def runs(self) -> Sequence[Sequence[tuple[StoredRun, dict[str, dict[int, float]]]]]:
        """Return the runs of each row, with the quantities that each has: {name: {step: value}}."""
        return [[(run, self._quantities(run)) for run in row.runs] for row in self.rows]

    @cached_property
    def curves(self) -> Mapping[str, Sequence[Curve]]:
        """Return the curves of each quantity against steps, for the rows that have it."""
        found: dict[str, list[Curve]] = defaultdict(list)
        for place, row in enumerate(self.rows):
            finished = [run for run in row.runs if run.status == "finished"]
            label = row.label
            if not finished:
                label += f" ({', '.join(sorted({run.status for run in row.runs}))})"
            seeds: dict[str, list[dict[int, float]]] = defaultdict(list)
            for run, quantities in self.runs[place]:
                if run in finished or not finished:
                    for name, values in quantities.items():
                        seeds[name].append(values)
            for name, of_seeds in seeds.items():
                x = sorted(set().union(*of_seeds))
                if finished:  # where the first seed ends, a mean of fewer would jump
                    end = min(max(one) for one in of_seeds)
                    x = [step for step in x if step <= end]
                at = np.array([[one.get(step, np.nan) for step in x] for one in of_seeds])
                found[name].append(
                    Curve(
                        place, wrapped(label), bool(finished), len(of_seeds), np.array(x, float),
                        np.nanmean(at, 0), np.nanmin(at, 0), np.nanmax(at, 0),
                    )
                )  # fmt: skip
        return found

    def _quantities(self, run: StoredRun) -> dict[str, dict[int, float]]:
        """Return the quantities of a run that has them, by step."""
        rows = self._metrics(run)
        found = {
            name: {row["step"]: row[name] for row in rows if is_number(row.get(name))}
            for name in _NUMBERS
        }
        for name, reduce in _CHANGES.items():
            found[name] = _change({row["step"]: row.get(name) for row in rows}, reduce)
        return {name: values for name, values in found.items() if values}

    def _metrics(self, run: StoredRun) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl, without a last one that was cut off by a kill."""
        path = run.record.metrics
        try:
            rows = [parse_json(line) for line in read_text(path).split("\n")[:-1]]
            if not all(isinstance(r, dict) and isinstance(r.get("step"), int) for r in rows):
                raise ValueError("a row has no step")
            return rows
        except FileNotFoundError:
            pass
        except UserError as error:
            self._fault(str(error))
        except (ValueError, RecursionError) as error:
            self._fault(f"{path} is damaged: {error}")
        return []


def _lowest(table: Comparison) -> list[TableRow]:
    """Return at most MOST_ROWS rows in the order of the table."""
    if len(table.rows) <= MOST_ROWS:
        return [*table.rows]
    errors = {row: mean.mean for row in table.rows if (mean := row.mean("test_error"))}
    ranked = sorted(table.rows, key=lambda row: errors.get(row, float("inf")))
    kept = {*ranked[: MOST_ROWS - 1], table.baseline or ranked[MOST_ROWS - 1]}
    return [row for row in table.rows if row in kept]


def _change(by_step: Mapping[int, Any], reduce: Reduce) -> dict[int, float]:
    """Return the change of a geometric value since step 0, empty if it is unknown."""
    found = {step: reduced(values, by_step.get(0), reduce) for step, values in by_step.items()}
    start = found.get(0)
    if start is None:
        return {}
    return {step: value - start for step, value in found.items() if value is not None}


def over_seeds(counts: Iterable[int], band: str) -> str:
    """Return a caption for these numbers of seeds. band: the meaning of the drawn spread."""
    low, high = min(counts := [*counts]), max(counts)
    if high == 1:
        return "one seed each"
    return f"mean over {low if low == high else f'{low} to {high}'} seeds; {band}"
