"""hydra/sweeper=grid: every combination, composed and checked before the first run starts."""

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.opt_runner._launcher import RunLauncher
from opt_runner.cli import mistakes
from opt_runner.config.compose import Composer
from opt_runner.errors import UserError

if TYPE_CHECKING:
    from opt_runner.console.screen import Screen
    from opt_runner.runs.run import Run


class GridSweeper(Sweeper):
    """params: overrides that an experiment brings along; the command line's come after them."""

    def __init__(self, params: Mapping[str, str] | None = None) -> None:
        self.params = params or {}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Ends the program where the exit code is not 0."""
        with mistakes.told(quiet=mistakes.another_tells()):
            code = self._sweep([*(f"{k}={v}" for k, v in self.params.items()), *arguments])
        if code:
            sys.exit(code)

    def _sweep(self, overrides: Sequence[str]) -> int:
        # Hydra imports this module for `--help`, which must answer at once.
        from opt_runner.console.screen import Screen
        from opt_runner.runs.conduct import conduct
        from opt_runner.runs.run import Identifier, Run, command_line
        from opt_runner.runs.sweep import Sweep
        from opt_runner.training.processes import started_by_torchrun

        if started_by_torchrun():
            raise UserError(
                "torchrun starts the processes of one run, and this is a sweep: leave out one or "
                "the other"
            )
        config, launcher = self.config, self.launcher
        assert config is not None
        assert launcher is not None
        # A launcher of others may take the runs to other machines, with other devices.
        here = isinstance(launcher, RunLauncher) and launcher.here
        sources = config.hydra.runtime.config_sources
        folders = [source.path for source in sources if source.provider == "command-line"]
        jobs = combinations(overrides)
        compose, identify = Composer(config.hydra.job.config_name), Identifier(check_device=here)
        runs: dict[str, Run] = {}
        overrides_of: dict[str, Sequence[str]] = {}
        for job in jobs:
            try:
                composed = compose(job)
                if isinstance(launcher, RunLauncher):
                    composed = launcher.placed(composed)
                run = identify(composed, command_line(folders, job))
            except UserError as error:
                raise UserError(f"{error} [in the run {' '.join(job)}]") from error
            runs.setdefault(run.signature, run)
            overrides_of.setdefault(run.signature, job)

        one_process = here or isinstance(launcher, RunLauncher)
        if one_process and any(run.config.hardware.processes == "slurm" for run in runs.values()):
            raise UserError(
                "hardware.processes=slurm: this launcher starts one process a run; "
                "hydra/launcher=submitit_slurm starts several (hydra.launcher.tasks_per_node)"
            )
        sweep = Sweep(list(runs.values()), asked=len(jobs), here=here)
        progress = sweep.runs[0].config.progress
        if isinstance(launcher, RunLauncher):
            screen = Screen(progress)
        else:  # its workers write where they like, between bars as well
            screen = Screen("none" if progress == "none" else "plain")
        if isinstance(launcher, RunLauncher):
            launcher.prepare(sweep, screen)

        def launch(left: Sequence[Run]) -> None:
            if isinstance(launcher, RunLauncher):
                launcher.execute(sweep, left, screen)
            else:
                jobs = [overrides_of[run.signature] for run in left]
                for run, done in zip(left, launcher.launch(jobs, 0), strict=True):
                    _record_failure(run, done, screen)

        return conduct(sweep, launch, screen)


def _record_failure(run: "Run", done: JobReturn, screen: "Screen") -> None:
    """Of a job that failed outside of its run, which records its own failures."""
    from opt_runner.runs.execute import give_up

    if done.status != JobStatus.COMPLETED:
        try:
            done.return_value  # noqa: B018  (raises what the job did)
        except Exception as error:
            give_up(run, f"{type(error).__name__}: {error}", screen)


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
