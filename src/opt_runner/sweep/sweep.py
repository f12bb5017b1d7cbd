"""A sweep: many runs, known before the first one starts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opt_runner.records import stored
from opt_runner.records.stored import StoredRun
from opt_runner.run.run import Run


class LeftRunning(Exception):
    """What a launcher raises that leaves before its runs have ended: they go on without it. Its
    text says how, and where to look."""


@dataclass(frozen=True)
class Sweep:
    """runs: each once, in the order in which they are launched. asked: how many the command names,
    doubles among them. here: they run on this machine. name: of a search, whose runs are not known
    beforehand: `runs` is an example, in what all of them share."""

    runs: Sequence[Run]
    asked: int
    here: bool
    name: str | None = None

    @property
    def id(self) -> str:
        """The same runs make the same sweep, also when it is started again."""
        if self.name is not None:
            return self.name
        signatures = " ".join(sorted(run.signature for run in self.runs))
        name = self.runs[0].config.experiment_name
        return f"{name}-{hashlib.sha256(signatures.encode()).hexdigest()[:8]}"

    @property
    def folder(self) -> Path:
        """Where its launcher keeps what it needs while it runs."""
        return Path(self.runs[0].config.output_dir) / ".sweep" / self.id

    def knows_device(self, run: Run) -> bool:
        """Whether the device of a run, and with it its signature, is known beforehand."""
        return self.here or run.config.hardware.device != "auto"

    def stored(self, run: Run) -> StoredRun | None:
        """What there is of a run; None for one that has not begun."""
        if self.knows_device(run):
            return stored.read(run.record.directory)
        return stored.read_on_any_device(StoredRun(run.record, run.config.content, None))
