"""Reporters of the training loop: they write to the record, to trackers and to the screen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opt_runner.console.screen import RunDisplay
from opt_runner.records.record import Record
from opt_runner.records.result import finite
from opt_runner.tracking import Trackers


class Reporter:
    """The training loop's interface to all else. This one does nothing."""

    def report(self, row: dict[str, Any]) -> None:
        """Take a row of metrics."""

    def save(self, progress: dict[str, Any]) -> None:
        """Write a checkpoint. progress: plain values, for `train` to resume from."""

    def show(self, step: int, loss: float) -> None:
        """Show the progress; called twice a second."""

    def pruned(self) -> bool:
        """Return True if a search stops the run; called after each evaluation."""
        return False


@dataclass
class RecordReporter(Reporter):
    """A reporter that writes to the record, to trackers and to the screen.

    write: writes a checkpoint that holds these plain values.
    """

    record: Record
    write: Callable[[dict[str, Any]], None]
    trackers: Trackers
    display: RunDisplay

    def report(self, row: dict[str, Any]) -> None:
        self.record.append_metrics(row)
        self.trackers.log(row)
        self.display.report(row)

    def save(self, progress: dict[str, Any]) -> None:
        self.write(finite(progress))

    def show(self, step: int, loss: float) -> None:
        self.display.show(step, loss)

    def pruned(self) -> bool:
        return self.record.prune.exists()
