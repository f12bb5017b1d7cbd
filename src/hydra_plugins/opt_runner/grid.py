"""hydra/sweeper=grid: every combination, composed and checked before the first run starts."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from hydra_plugins.opt_runner._sweeper import RunSweeper

if TYPE_CHECKING:
    from opt_runner.run.run import Run


class GridSweeper(RunSweeper):
    """Sweeper over all combinations of values. content: see conf/hydra/sweeper/grid.yaml."""

    def conduct(self, arguments: Sequence[str]) -> int:
        from opt_runner.sweep.conduct import conduct
        from opt_runner.sweep.sweep import Sweep

        jobs = self.jobs(arguments)
        runs: dict[str, Run] = {}
        for job in jobs:
            run = self.run(job)
            runs.setdefault(run.signature, run)
        sweep = Sweep(list(runs.values()), asked=len(jobs), here=self.here)
        screen = self.screen(sweep.runs[0])
        self.prepare(sweep, screen)
        return conduct(sweep, partial(self.launch, sweep, screen), screen)

    def jobs(self, arguments: Sequence[str]) -> list[list[str]]:
        """Return the overrides of each run. Those of the command line hold in every grid."""
        from opt_runner.config.options import GridOptions
        from opt_runner.config.overrides import combinations

        options = GridOptions.read(self.content)
        return [
            job
            for grid in options.grids or [{}]
            for job in combinations(options.after_params(arguments, grid))
        ]
