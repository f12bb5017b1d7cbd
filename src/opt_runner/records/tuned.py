"""tuned.json: the runs of a fair comparison that have the best settings of its searches.

More trials may find better settings. Runs with outdated settings are left out of tables; otherwise
a method, or the baseline, would appear twice.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from opt_runner.errors import UserError
from opt_runner.files import write_whole
from opt_runner.records import search
from opt_runner.records.reading import folders_below, read_json
from opt_runner.records.stored import StoredRun

NAME = "tuned.json"


@dataclass(frozen=True)
class Tuned:
    """An entrant of a fair comparison and its runs.

    setting: the best setting, as overrides. runs: the signatures of the runs that have it.
    former: the signatures of runs with settings that were the best before.
    """

    setting: list[str]
    runs: list[str]
    former: list[str]


def keep(
    folder: Path, settings: Mapping[str, Sequence[str]], runs: Mapping[str, Sequence[str]]
) -> None:
    """Record the best settings and their runs. settings, runs: by the entrants' labels.

    Raises UserError for a file that cannot be read or is damaged, and CannotWrite.
    """
    known = read(folder) if (folder / NAME).exists() else {}
    for label, setting in settings.items():
        before = known.get(label, Tuned([*setting], [], []))
        same = before.setting == [*setting]
        current = {*runs[label], *(before.runs if same else [])}
        former = {*before.former, *before.runs} - current
        known[label] = Tuned([*setting], sorted(current), sorted(former))
    content = {label: asdict(entrant) for label, entrant in known.items()}
    write_whole(folder / NAME, json.dumps(content, indent=1) + "\n")


def read(folder: Path) -> dict[str, Tuned]:
    """Return the entrants by label. Raises UserError for a damaged file."""
    return read_json(folder / NAME, TypeAdapter(dict[str, Tuned]))


def superseded(
    folders: Iterable[Path], fault: Callable[[str], None], runs: Iterable[StoredRun] = ()
) -> set[str]:
    """Return the signatures of the comparisons' outdated runs. fault: see `folders_below`.

    A comparison that grows by a method is another one, in a folder beside the first. Where both
    have searched one space of an entrant, the last setting counts, for runs of one table and seed
    that differ in nothing but what was searched. runs: those below the folders.
    """
    stored = {run.signature: run for run in runs}
    found: list[tuple[float, Path, dict[str, Tuned]]] = []
    for folder, files in folders_below(folders, fault):
        if NAME in files:
            try:
                found.append(((folder / NAME).stat().st_mtime, folder, read(folder)))
            except (OSError, UserError) as error:
                fault(f"{error}; without it runs with outdated settings are shown too")
    former: set[str] = set()
    current: set[str] = set()
    last: dict[object, str] = {}
    for _, folder, entrants in sorted(found, key=lambda one: one[0], reverse=True):
        spaces = _spaces(folder)
        for label, entrant in entrants.items():
            former.update(entrant.former)
            for signature in entrant.runs:
                place: object = signature
                if signature in stored and label in spaces:
                    what = _apart_from(spaces[label], stored[signature])
                    place = (folder.parent, label, what)
                latest = last.setdefault(place, signature) == signature
                (current if latest else former).add(signature)
    return former - current


def _spaces(folder: Path) -> dict[str, dict[str, str]]:
    """Return the space of each entrant that a search in the folder has, by label."""
    found = [one for one in search.find([folder], lambda line: None) if one.label]
    return {one.label: one.space for one in found}


def _apart_from(space: Mapping[str, str], run: StoredRun) -> str:
    """Return what makes a run, without the keys of the space."""
    searched = {key.lstrip("+~") for key in space}
    fixed = {key: value for key, value in run.method_keys.items() if key not in searched}
    return json.dumps([dict(space), run.table_keys, fixed, run.versions, run.seed], default=str)
