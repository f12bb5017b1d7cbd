"""Reporters of the training loop: they write to the record, to trackers and to the screen."""

from collections.abc import Callable
from typing import Any, Protocol

from opt_runner.console.screen import RunDisplay
from opt_runner.records.record import Record
from opt_runner.records.result import finite
from opt_runner.tracking import Trackers


class Reporter(Protocol):
    """The interface of the training loop to everything outside of it."""

    def report(self, row: dict[str, Any]) -> None:
        """Take a row of metrics."""

    def save(self, progress: dict[str, Any]) -> None:
        """Write a checkpoint. progress: plain values, for `train` to resume from."""

    def show(self, step: int, loss: float) -> None:
        """Show the progress; called twice a second."""

    def pruned(self) -> bool:
        """Return True if a search stops the run; called after each evaluation."""
        ...


class RecordReporter:
    """A reporter that writes to the record, to trackers and to the screen.

    write: writes a checkpoint that holds these plain values.
    """

    def __init__(
        self,
        record: Record,
        write: Callable[[dict[str, Any]], None],
        trackers: Trackers,
        display: RunDisplay,
    ) -> None:
        self.record = record
        self.write = write
        self.trackers = trackers
        self.display = display

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


class NoReporter:
    """A reporter that does nothing, for processes without the record."""

    def report(self, row: dict[str, Any]) -> None: ...

    def save(self, progress: dict[str, Any]) -> None: ...

    def show(self, step: int, loss: float) -> None: ...

    def pruned(self) -> bool:
        return False
