"""hydra/launcher=pool: the runs of a sweep side by side on this machine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra_plugins.opt_runner._launcher import RunLauncher

if TYPE_CHECKING:
    from opt_runner.console.screen import Screen
    from opt_runner.runs.run import Run
    from opt_runner.runs.sweep import Sweep


class PoolLauncher(RunLauncher):
    """slots: runs at once; None: one a GPU, or one for every `hardware.threads` cores.
    runs_per_gpu: of which one GPU may have several.
    retries: how often a run is tried again whose worker died."""

    def __init__(self, slots: int | None = None, runs_per_gpu: int = 1, retries: int = 1) -> None:
        self.slots = slots
        self.runs_per_gpu = runs_per_gpu
        self.retries = retries

    def execute(self, sweep: "Sweep", left: "Sequence[Run]", screen: "Screen") -> None:
        from opt_runner.launch.pool import Pool
        from opt_runner.launch.slots import slots

        chosen = slots(left[0].config.hardware, self.slots, self.runs_per_gpu)
        Pool(chosen, sweep.folder, screen, self.retries).execute(left)
