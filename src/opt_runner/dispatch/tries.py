"""How often a run is tried: a worker that dies costs its run one try."""

from dataclasses import replace

from opt_runner.files import unused
from opt_runner.records.record import Record
from opt_runner.run.run import Run


class Tries:
    """run: for its next try, which goes on from the checkpoint of the last, with `rerun` too.

    record: where it is, or is going to be, on disk.
    """

    def __init__(self, run: Run, record: Record, retries: int) -> None:
        self.run = run
        self.ended = 0
        self._allowed = 1 + retries
        self._aside = unused(record.directory, "old")
        self._old = record.result.exists() or bool(record.checkpoints())

    @property
    def left(self) -> bool:
        return self.ended < self._allowed

    def end(self, how: str) -> str:
        """Count a try whose worker died, and say so. how: as `was killed by SIGKILL`."""
        self.ended += 1
        if self.run.config.rerun and (self._aside.exists() or not self._old):
            config = self.run.config.model_copy(update={"rerun": False})
            self.run = replace(self.run, config=config)
        if self.left:
            return f"its worker {how}: it is tried again"
        tried = "" if self.ended == 1 else f", in each of {self.ended} tries"
        return f"its worker {how}{tried}"
