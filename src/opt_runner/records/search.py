"""search.json: the trials of a search, for reports, which need no Optuna to read it.

The search itself goes on from the journal that stands beside it.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from opt_runner.errors import UserError
from opt_runner.files import write_whole

NAME = "search.json"
WORST = 100.0  # the value, in percent, of a trial that diverged
STATUSES = ("finished", "pruned", "diverged", "failed", "not finished")


@dataclass(frozen=True)
class Trial:
    """status: one of STATUSES. errors: validation errors in percent, one a seed; value: their mean,
    which is minimised, 100 for a diverged trial. runs: the signatures, one a seed."""

    number: int
    status: str
    parameters: dict[str, Any]
    value: float | None
    errors: list[float]
    runs: list[str]
    reason: str | None = None


@dataclass(frozen=True)
class SearchRecord:
    """space: the parameters as on the command line. log: those on a logarithmic scale. label: tells
    the searches of one fair comparison, which share a name, from each other."""

    name: str
    space: dict[str, str]
    log: list[str]
    trials: list[Trial]
    label: str = ""

    def ranked(self) -> list[Trial]:
        """Those that finished, the best first; of equal ones the first."""
        finished = [trial for trial in self.trials if trial.status == "finished"]
        return sorted(finished, key=lambda trial: (trial.value, trial.number))

    def count(self, status: str) -> int:
        return sum(trial.status == status for trial in self.trials)

    def write(self, folder: Path) -> None:
        """Raises CannotWrite."""
        write_whole(folder / NAME, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises UserError for one that cannot be read or is damaged."""
        path = folder / NAME
        try:
            content = json.loads(path.read_text())
            return cls(**{**content, "trials": [Trial(**one) for one in content["trials"]]})
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged: {error}; the search writes it anew") from error


def words(parameters: Mapping[str, Any]) -> list[str]:
    """As overrides. A float is rounded to six digits: it can be read, and typed again."""
    return [
        f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in parameters.items()
    ]


def beaten(searches: Sequence[SearchRecord]) -> set[str]:
    """The signatures of the runs of all trials but the best of each search. Those of a fair
    comparison are all beaten: its table is of other runs."""
    trials = [trial for search in searches for trial in search.trials]
    best = [trial for search in searches if not search.label for trial in search.ranked()[:1]]
    return {run for one in trials for run in one.runs} - {run for one in best for run in one.runs}


def tunings(searches: Iterable[SearchRecord]) -> list[list[SearchRecord]]:
    """The searches of each fair comparison, plain training's first."""
    found: dict[str, list[SearchRecord]] = {}
    for search in sorted(searches, key=lambda search: not search.label.startswith("standard")):
        if search.label:
            found.setdefault(search.name, []).append(search)
    return list(found.values())


def find(folders: Iterable[Path]) -> list[SearchRecord]:
    """All searches below the folders, sorted by path. Raises UserError for a damaged one."""
    found: dict[Path, SearchRecord] = {}
    for folder in folders:
        for root, names, files in os.walk(folder):
            names[:] = [name for name in names if not name.startswith(".") and ".old-" not in name]
            if NAME in files:
                found[Path(root).resolve()] = SearchRecord.read(Path(root))
    return [found[path] for path in sorted(found)]
