"""Where launchers take their runs from: the list of a grid, or a search that draws one by one."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from opt_runner.run.run import Run


class Source(Protocol):
    """Called from the threads of a launcher's slots."""

    def take(self) -> Run | None:
        """The run for a slot that is free; None: the slot is not needed any more."""
        ...

    def ended(self, run: Run) -> None:
        """A run that was taken has ended, or cannot be executed. A run that was cut off, as the
        launcher was asked to stop, is not told."""


class Listed:
    """Runs that are known beforehand."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._left = deque(runs)

    def take(self) -> Run | None:
        try:
            return self._left.popleft()
        except IndexError:
            return None

    def ended(self, run: Run) -> None:
        """Their results are on disk."""


def in_batches(source: Source, size: int, launch: Callable[[Sequence[Run]], object]) -> None:
    """For launchers that return once all runs that they were given have ended: a batch waits for
    its slowest."""
    while batch := [run for _ in range(size) if (run := source.take()) is not None]:
        launch(batch)
        for run in batch:
            source.ended(run)
