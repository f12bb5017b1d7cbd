"""hydra/launcher=pool: the runs of a sweep side by side on this machine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra_plugins.opt_runner._launcher import RunLauncher

if TYPE_CHECKING:
    from opt_runner.console.screen import Screen
    from opt_runner.dispatch.slots import Slot
    from opt_runner.run.run import Run
    from opt_runner.sweep.source import Source
    from opt_runner.sweep.sweep import Sweep


class PoolLauncher(RunLauncher):
    """slots: runs at once; None: one a GPU, or one for every `hardware.threads` cores.
    runs_per_gpu: of which one GPU may have several.
    retries: how often a run is tried again whose worker died."""

    def __init__(self, slots: int | None = None, runs_per_gpu: int = 1, retries: int = 1) -> None:
        self.slots = slots
        self.runs_per_gpu = runs_per_gpu
        self.retries = retries

    def execute(self, sweep: "Sweep", left: "Sequence[Run]", screen: "Screen") -> None:
        from opt_runner.sweep.source import Listed

        self._execute(sweep, Listed(left), self._slots(left[0])[: len(left)], screen)

    def at_once(self, run: "Run") -> int | None:
        return len(self._slots(run))

    def serve(self, sweep: "Sweep", source: "Source", at_once: int, screen: "Screen") -> None:
        """A slot takes its next run as soon as it is free."""
        self._execute(sweep, source, self._slots(sweep.runs[0])[:at_once], screen)

    def _execute(
        self, sweep: "Sweep", source: "Source", slots: "Sequence[Slot]", screen: "Screen"
    ) -> None:
        from opt_runner.dispatch.pool import Pool

        Pool(slots, sweep.folder, screen, self.retries).execute(source)

    def _slots(self, run: "Run") -> "list[Slot]":
        from opt_runner.dispatch.slots import slots

        return slots(run.config.hardware, self.slots, self.runs_per_gpu)
