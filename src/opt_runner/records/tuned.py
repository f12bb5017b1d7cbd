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
from opt_runner.records.reading import folders_below, read_json
from opt_runner.records.search import SearchRecord
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
    folders: Iterable[Path],
    fault: Callable[[str], None],
    runs: Iterable[StoredRun] = (),
    searches: Iterable[SearchRecord] = (),
) -> set[str]:
    """Return the signatures of the comparisons' outdated runs. fault: see `folders_below`.

    A comparison that grows by a method is another one, in a folder beside the first. Where both
    have searched the same space of an entrant, the setting of the last one counts, for the same
    table and seed. runs, searches: those below the folders, which say so.
    """
    spaces = {(one.name, one.label): one.space for one in searches}
    tables = {run.signature: (json.dumps(run.table_keys, default=str), run.seed) for run in runs}
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
        for label, entrant in entrants.items():
            former.update(entrant.former)
            space = json.dumps(spaces.get((folder.name, label)))
            for run in entrant.runs:
                place = (folder.parent, label, space, tables.get(run, run))
                (current if last.setdefault(place, run) == run else former).add(run)
    return former - current
