"""Sources of runs for launchers: the list of a grid, or a search that draws its runs."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from opt_runner.run.run import Run


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
    """A source of runs that are known beforehand. ended: called with each run that has ended."""

    def __init__(
        self, runs: Sequence[Run], ended: Callable[[Run], None] = lambda run: None
    ) -> None:
        self._left = deque(runs)
        self.ended = ended

    def take(self) -> Run | None:
        return self._left.popleft() if self._left else None
