"""tuned.json: the runs of a fair comparison, which have the settings that its searches found.

More trials may find better settings. Runs with the former ones are of no table: a method would
stand in it twice, plain training too, and nothing could be compared with it.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from opt_runner.errors import UserError
from opt_runner.files import write_whole

NAME = "tuned.json"


@dataclass(frozen=True)
class Tuned:
    """An entrant. setting: the best one, as overrides. runs: the signatures of those that have it.
    former: of those with settings that were the best before."""

    setting: list[str]
    runs: list[str]
    former: list[str]


def keep(
    folder: Path, settings: Mapping[str, Sequence[str]], runs: Mapping[str, Sequence[str]]
) -> None:
    """Take in what the searches have found. settings, runs: by the entrants' labels.

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
    """By label. Raises UserError for a file that cannot be read or is damaged."""
    path = folder / NAME
    try:
        return {label: Tuned(**one) for label, one in json.loads(path.read_text()).items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged: {error}; without it a report shows runs with former settings too"
        ) from error


def superseded(folders: Iterable[Path]) -> set[str]:
    """The signatures of the runs with former settings of all comparisons below the folders."""
    former: set[str] = set()
    current: set[str] = set()
    for folder in folders:
        for root, names, files in os.walk(folder):
            names[:] = [name for name in names if not name.startswith(".")]
            if NAME in files:
                for entrant in read(Path(root)).values():
                    former.update(entrant.former)
                    current.update(entrant.runs)
    return former - current
