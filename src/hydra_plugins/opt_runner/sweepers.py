"""The sweepers: they compose and check runs, then hand them to a launcher.

Hydra imports its plugins for `--help`, which must answer at once: torch is imported in `setup`.
"""

import sys
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.opt_runner.launchers import RunLauncher
from opt_runner.cli import mistakes
from opt_runner.errors import UserError

if TYPE_CHECKING:
    from opt_runner.console.screen import Screen
    from opt_runner.dispatch.loop import LauncherOptions
    from opt_runner.run.run import Run
    from opt_runner.sweep.sweep import Source, Sweep


class RunSweeper(Sweeper):
    """Sweeper that composes runs. content: the keys of its YAML, checked by `conduct`.

    here: the runs are executed on this machine, so that their device is known beforehand.
    """

    # Overrides that turn the recorded command of one run into a command for that run alone.
    alone: ClassVar[Sequence[str]] = ()
    options: "LauncherOptions | None"  # the launcher's options; None: a launcher of another package

    def __init__(self, **content: Any) -> None:
        self.content = content

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from opt_runner.config.compose import Composer, config_arguments
        from opt_runner.run.run import Identifier

        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if isinstance(self.launcher, RunLauncher):
            _refuse_for_workers(config, hydra_context)
        self.options = self.launcher.options if isinstance(self.launcher, RunLauncher) else None
        # A launcher of another package may use machines with other devices.
        self.here = self.options is not None and self.options.here
        self._arguments = config_arguments(config.hydra)
        self._compose = Composer(config.hydra.job.config_name)
        self._identify = Identifier(check_device=self.here)
        self._overrides: dict[str, Sequence[str]] = {}  # by the signature of a run

    def sweep(self, arguments: list[str]) -> None:
        """Conduct the sweep; end the program if the exit code is not 0."""
        from opt_runner.run.process import started_by_torchrun

        with mistakes.exit_on_error(quiet=mistakes.rank_0_reports()):
            if started_by_torchrun():
                raise UserError(
                    "torchrun starts the processes of one run, and this is a sweep: leave out one "
                    "or the other"
                )
            code = self.conduct(arguments)
        if code:
            sys.exit(code)

    @abstractmethod
    def conduct(self, arguments: Sequence[str]) -> int:
        """Conduct the sweep of the command line. Returns the exit code."""

    def run(self, overrides: Sequence[str]) -> "Run":
        """Return a run. Raises UserError with the run's name, or an error of Hydra."""
        from opt_runner.config.compose import command

        try:
            config = self._compose(overrides)
            if self.options is not None:
                config = self.options.placed(config)
                if config.hardware.processes == "slurm":
                    raise UserError(
                        "hardware.processes=slurm: this launcher starts one process a run; "
                        "several train one run as srun --ntasks=N opt-run "
                        "hardware.processes=slurm ..., without -m"
                    )
            run = self._identify(config, command([*self._arguments, *overrides, *self.alone]))
        except UserError as error:
            raise UserError(f"{error} [in the run {' '.join(overrides)}]") from error
        self._overrides.setdefault(run.signature, overrides)
        return run

    def screen(self, run: "Run") -> "Screen":
        from opt_runner.console.screen import Screen

        mode = run.config.progress
        # No bars, because workers of another package's launcher write to the same terminal.
        return Screen(mode if self.options is not None or mode == "none" else "plain")

    def prepare(self, sweep: "Sweep", screen: "Screen") -> None:
        if self.options is not None:
            self.options.prepare(sweep, screen)

    def at_once(self, run: "Run") -> int | None:
        """Return how many runs like this one the launcher executes at once, None if unknown."""
        return self.own_options().at_once(run.config.hardware)

    def serve(self, sweep: "Sweep", screen: "Screen", source: "Source", at_once: int) -> None:
        from opt_runner.dispatch.loop import dispatch

        options = self.own_options()
        dispatch(source, options.backend(options, sweep, screen), at_once)

    def own_options(self) -> "LauncherOptions":
        """Raise UserError for a launcher of another package, which takes no runs one by one."""
        if self.options is None:
            raise UserError(
                "a search needs hydra/launcher=pool, slurm or ray: others execute only grids"
            )
        return self.options


def _refuse_for_workers(config: DictConfig, hydra_context: HydraContext) -> None:
    """Raise UserError for options of Hydra's jobs: workers of our launchers have no Hydra."""
    hydra, folder = config.hydra, f"{config.output_dir}/.sweep"
    given = {
        "hydra.job.chdir": hydra.job.chdir,
        "hydra.verbose": hydra.verbose,
        "hydra.sweep.dir": hydra.sweep.dir != folder,
        "hydra.sweep.subdir": hydra.sweep.subdir != ".",
    }
    for key in (key for key, used in given.items() if used):
        raise UserError(
            f"{key} has no effect on runs of hydra/launcher=pool, slurm and ray: records are below "
            "output_dir=DIR, and run.log in each has its messages"
        )
    for callback in hydra_context.callbacks.callbacks:
        for hook in ("on_job_start", "on_job_end"):
            if getattr(type(callback), hook, None) not in (None, getattr(Callback, hook)):
                raise UserError(
                    f"hydra.callbacks: {type(callback).__name__}.{hook} is not called by "
                    "hydra/launcher=pool, slurm and ray: use a tracker (docs/tracking.md), or "
                    "hydra/launcher=basic"
                )


class GridSweeper(RunSweeper):
    """hydra/sweeper=grid: every combination. content: see conf/hydra/sweeper/grid.yaml."""

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
        """Return the overrides of each run; the command line's apply to every grid."""
        from opt_runner.config.options import GridOptions
        from opt_runner.config.overrides import combinations

        options = GridOptions.read(self.content)
        return [
            job
            for grid in options.grids or [{}]
            for job in combinations(options.after_params(arguments, grid))
        ]

    def launch(self, sweep: "Sweep", screen: "Screen", runs: "Sequence[Run]") -> None:
        """Execute these runs. Raises the exception of a job of another package's launcher."""
        from opt_runner.sweep.sweep import Listed

        if self.options is not None:
            self.serve(sweep, screen, Listed(runs), len(runs))
            return
        assert self.launcher is not None
        for done in self.launcher.launch([self._overrides[run.signature] for run in runs], 0):
            try:
                done.return_value  # noqa: B018  (raises what the job raised)
            except UserError as error:  # not a mistake in this command
                raise RuntimeError(str(error)) from error


class SearchSweeper(RunSweeper):
    """Sweeper that chooses runs by their validation error."""

    alone = ("hydra.mode=RUN",)

    def __init__(self, grids: object = None, **content: Any) -> None:
        # An experiment's YAML is merged into the default sweeper's, which has the key `grids`.
        super().__init__(**content, **({} if grids is None else {"grids": grids}))


class OptunaSweeper(SearchSweeper):
    """hydra/sweeper=optuna: a search. content: see conf/hydra/sweeper/optuna.yaml."""

    def conduct(self, arguments: Sequence[str]) -> int:
        if find_spec("optuna") is None:
            raise UserError("hydra/sweeper=optuna needs Optuna: pip install optuna")
        from opt_runner.sweep import search
        from opt_runner.sweep.space import parse_space

        self.own_options().check_search()
        options = search.SearchOptions.read(self.content)
        return search.conduct(parse_space(options.after_params(arguments)), options, self)


class FairSweeper(SearchSweeper):
    """hydra/sweeper=fair: every method is tuned alike on validation samples, then compared.

    content: see conf/hydra/sweeper/fair.yaml.
    """

    def conduct(self, arguments: Sequence[str]) -> int:
        from opt_runner.sweep import entrants, fair

        self.own_options()
        options = entrants.ComparisonOptions.read(self.content)
        command = entrants.parse_command(options.after_params(arguments))
        return fair.conduct(command, options, self)
