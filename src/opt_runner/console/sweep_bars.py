"""The live display of a sweep: a bar for all of it, and one for each run under way."""

from collections.abc import Mapping
from typing import Any, Self

from rich.progress import TaskID
from rich.text import Text

from opt_runner.console.screen import Screen, bars, duration


class SweepBars:
    """Within its block the bars are on the screen, if that is live; else it draws nothing."""

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
        """left: seconds. running: title, step, steps and info of each run under way, by slot."""
        if not self.screen.live:
            return
        info = Text(f"{failed} failed", "red") if failed else Text("none failed")
        if left is not None and done < total:
            info = Text.assemble(info, f", {duration(left)} left")
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
