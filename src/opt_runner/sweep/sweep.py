"""A sweep, many runs that one command asks for, and the sources that give them to launchers."""

import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from opt_runner.config.schema import Config
from opt_runner.errors import UserError
from opt_runner.files import existing
from opt_runner.records import stored
from opt_runner.records.stored import StoredRun
from opt_runner.run.run import Run

_ROOM = 4096  # bytes that a disk with room takes


class LeftRunning(Exception):
    """A launcher has left its runs, which go on without it; the text says how to follow them."""


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
            try:
                with tempfile.TemporaryFile(dir=found) as file:
                    file.write(bytes(_ROOM))
                    file.flush()
            except OSError as error:
                raise UserError(
                    f"cannot write to {folder}: {found}: {error.strerror}; set output_dir=DIR"
                ) from error

    def knows_device(self, run: Run) -> bool:
        """Return True if the device of a run, and so its signature, is known beforehand."""
        return self.here or run.config.hardware.device != "auto"

    def stored(self, run: Run) -> StoredRun | None:
        """Return the stored run; None if it has not begun."""
        if self.knows_device(run):
            return stored.read(run.record.directory)
        return stored.read_on_any_device(StoredRun(run.record, run.config.content, None))


class Source(Protocol):
    """The runs of a sweep, which a launcher takes one by one from its main thread."""

    def take(self) -> Run | None:
        """Return the next run; None if there is none now. Called again when a run has ended."""
        ...

    def ended(self, run: Run) -> None:
        """Take note that a run has ended, or cannot be executed.

        The launcher does not call it after it was told to stop.
        """


class Listed:
    """A source of runs that are known beforehand. on_end: called with each run that has ended."""

    def __init__(
        self, runs: Sequence[Run], on_end: Callable[[Run], None] = lambda run: None
    ) -> None:
        self._left = deque(runs)
        self._on_end = on_end

    def take(self) -> Run | None:
        return self._left.popleft() if self._left else None

    def ended(self, run: Run) -> None:
        self._on_end(run)


def refuse_leaving(config: Config) -> None:
    """Raise UserError if a run is to be left to the process that has it: its result is needed."""
    if config.when_locked == "leave":
        raise UserError("when_locked=leave does not go with a search, which needs every result")
