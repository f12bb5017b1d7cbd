"""A sweep: many runs that one command asks for."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opt_runner.config.schema import Config
from opt_runner.errors import UserError
from opt_runner.files import existing
from opt_runner.records import stored
from opt_runner.records.stored import StoredRun
from opt_runner.run.run import Run


class LeftRunning(Exception):
    """A launcher has left before its runs have ended; they go on without it.

    The text says how to follow them.
    """


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    runs: its runs in the order of launch, without doubles; none for a search, which draws them.
    asked: the number of runs in the command, with doubles.
    here: the runs are executed on this machine.
    name: its id; None: a hash of the signatures of its runs.
    example: the config of a run, for a search, with the values that all its runs share.
    """

    runs: Sequence[Run]
    asked: int
    here: bool
    name: str | None = None
    example: Config | None = None

    @property
    def configs(self) -> list[Config]:
        """Return the configs of the known runs, or the example of a search."""
        return [run.config for run in self.runs] or ([self.example] if self.example else [])

    @property
    def id(self) -> str:
        """Return the name. Started again with the same runs, a sweep has the same name."""
        if self.name is not None:
            return self.name
        signatures = " ".join(sorted(run.signature for run in self.runs))
        name = self.configs[0].experiment_name
        return f"{name}-{hashlib.sha256(signatures.encode()).hexdigest()[:8]}"

    @property
    def folder(self) -> Path:
        return Path(self.configs[0].output_dir) / ".sweep" / self.id

    def check_output(self, runs: Sequence[Run] = ()) -> None:
        """Raise UserError if the folder of the sweep or of one of these runs cannot be written."""
        for folder in {self.folder, *(run.record.directory.parent for run in runs)}:
            found = existing(folder)
            if not (found.is_dir() and os.access(found, os.W_OK | os.X_OK)):
                raise UserError(
                    f"cannot write to {folder}: {found} is no folder that may be written; set "
                    "output_dir=DIR"
                )

    def knows_device(self, run: Run) -> bool:
        """Return True if the device of a run, and so its signature, is known beforehand."""
        return self.here or run.config.hardware.device != "auto"

    def stored(self, run: Run) -> StoredRun | None:
        """Return the stored run; None if it has not begun."""
        if self.knows_device(run):
            return stored.read(run.record.directory)
        return stored.read_on_any_device(StoredRun(run.record, run.config.content, None))
