"""The live display of a sweep: a bar for the sweep, and one for each running run."""

from collections.abc import Mapping
from typing import Any, Self

from rich.progress import TaskID

from opt_runner.console.screen import Screen, bars, duration


class SweepBars:
    """The bars of a sweep, shown within its block on a live screen, else not."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self._bars = bars(screen.console)
        self._tasks: dict[tuple[str, str], TaskID] = {}  # by slot and title

    def __enter__(self) -> Self:
        if self.screen.live:
            self._bars.start()
            self._sweep = self._bars.add_task("sweep", total=None, info="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.screen.live:
            self._bars.stop()

    def draw(
        self,
        done: int,
        total: int,
        failed: int,
        left: float | None,
        running: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Draw the bars.

        left: seconds to the end. running: title, step, steps and info of each running run, by slot.
        """
        if not self.screen.live:
            return
        info = f"{failed} failed" if failed else "none failed"
        if left is not None and done < total:
            info += f", {duration(left)} left"
        self._bars.update(self._sweep, completed=done, total=total, info=info)
        shown = {(slot, one["title"]): one for slot, one in running.items()}
        for gone in self._tasks.keys() - shown.keys():
            self._bars.remove_task(self._tasks.pop(gone))
        for key, one in shown.items():
            if key not in self._tasks:
                self._tasks[key] = self._bars.add_task(one["title"], total=None, info="")
            self._bars.update(
                self._tasks[key], total=one["steps"], completed=one["step"], info=one["info"]
            )
