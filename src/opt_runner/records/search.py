"""search.json: the trials of a search, for reports, which do not need Optuna to read it.

The search itself resumes from the journal beside this file.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from opt_runner.datasets.data import Measure
from opt_runner.errors import UserError
from opt_runner.files import write_whole
from opt_runner.records.reading import folders_below, read_json

NAME = "search.json"
STATUSES = ("finished", "pruned", "diverged", "failed", "not finished")


@dataclass(frozen=True)
class Trial:
    """A trial of a search.

    status: one of STATUSES. errors: validation errors, one for each seed.
    value: their mean, which is minimised; the worst for a diverged trial.
    runs: the signatures, one for each seed.
    """

    number: int
    status: str
    parameters: dict[str, Any]
    value: float | None
    errors: list[float]
    runs: list[str]
    reason: str | None = None


@dataclass(frozen=True)
class SearchRecord:
    """A search and its trials.

    space: the parameters as on the command line. measure: of the errors.
    label: the entrant, in a fair comparison, whose searches share one name.
    """

    name: str
    space: dict[str, str]
    trials: list[Trial]
    label: str = ""
    measure: Measure = field(default_factory=Measure)

    def ranked(self) -> list[Trial]:
        """Return the finished trials, the best first; equal ones by number."""
        finished = [t for t in self.trials if t.status == "finished" and t.value is not None]
        return sorted(finished, key=lambda trial: (trial.value, trial.number))

    def count(self, status: str) -> int:
        return sum(trial.status == status for trial in self.trials)

    def write(self, folder: Path) -> None:
        """Write the search into its folder. Raises CannotWrite."""
        write_whole(folder / NAME, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the search of a folder. Raises UserError for a damaged or missing one."""
        try:
            return read_json(folder / NAME, TypeAdapter(cls))
        except FileNotFoundError as error:
            raise UserError(f"{folder / NAME} is missing; the search writes it again") from error


def words(parameters: Mapping[str, Any]) -> list[str]:
    """Return the parameters as overrides, with floats rounded to six digits."""
    return [
        f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in parameters.items()
    ]


def beaten(searches: Sequence[SearchRecord]) -> set[str]:
    """Return the signatures of the runs of all trials but the best one of each search.

    In a fair comparison all trials count as beaten: its table holds other runs.
    """
    trials = [trial for search in searches for trial in search.trials]
    best = [trial for search in searches if not search.label for trial in search.ranked()[:1]]
    return {run for one in trials for run in one.runs} - {run for one in best for run in one.runs}


def tunings(searches: Iterable[SearchRecord]) -> list[list[SearchRecord]]:
    """Return the searches of each fair comparison, with plain training's first."""
    found: dict[str, list[SearchRecord]] = {}
    for search in sorted(searches, key=lambda search: not search.label.startswith("standard")):
        if search.label:
            found.setdefault(search.name, []).append(search)
    return list(found.values())


def find(folders: Iterable[Path], fault: Callable[[str], None]) -> list[SearchRecord]:
    """Return all searches below the folders, sorted by path. fault: see `folders_below`."""
    found: dict[Path, SearchRecord] = {}
    for folder, files in folders_below(folders, fault):
        if NAME in files:
            try:
                found[folder.resolve()] = SearchRecord.read(folder)
            except UserError as error:
                fault(f"left out: {error}")
    return [found[path] for path in sorted(found)]
