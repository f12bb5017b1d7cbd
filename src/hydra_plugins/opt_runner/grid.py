"""hydra/sweeper=grid: every combination, composed and checked before the first run starts."""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from hydra_plugins.opt_runner._launcher import RunLauncher
from hydra_plugins.opt_runner._sweeper import RunSweeper

if TYPE_CHECKING:
    from opt_runner.run.run import Run


class GridSweeper(RunSweeper):
    """params: overrides of an experiment. grids: several sets of them, as for methods that have
    options of their own: each is a grid, beside `params`, and the sweep is all of them."""

    def __init__(
        self,
        params: Mapping[str, str] | None = None,
        grids: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__(params)
        self.grids = grids or [{}]

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
        if isinstance(self.launcher, RunLauncher):
            self.launcher.prepare(sweep, screen)
        return conduct(sweep, partial(self.launch, sweep, screen), screen)

    def jobs(self, arguments: Sequence[str]) -> list[list[str]]:
        """The overrides of each run; what the command line says holds in every grid."""
        return [
            job for grid in self.grids for job in combinations(self.after_params(arguments, grid))
        ]


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """Every combination of the values `a,b,c` of all overrides; of a key given twice the last."""
    values: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise HydraException(
                f"{override.input_line}: a grid takes values, as {key}=1,2 or {key}=range(1,5), "
                "no intervals"
            )
    return [list(job) for job in itertools.product(*values.values())]
