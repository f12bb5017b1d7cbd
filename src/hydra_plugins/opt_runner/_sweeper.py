"""What the sweepers of opt-runner share: they compose and check runs, then hand them to a launcher.

Hydra imports its plugins for `--help`, which must answer at once: torch is imported in `setup`.
"""

import sys
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.opt_runner._launcher import RunLauncher
from opt_runner.cli import mistakes
from opt_runner.errors import UserError

if TYPE_CHECKING:
    from opt_runner.console.screen import Screen
    from opt_runner.run.run import Run
    from opt_runner.sweep.source import Source
    from opt_runner.sweep.sweep import Sweep


class RunSweeper(Sweeper):
    """Sweeper that composes runs. content: the keys of its YAML, checked by `conduct`.

    here: the runs are executed on this machine, so that their device is known beforehand.
    """

    # Overrides that turn the recorded command of one run into a command for that run alone.
    alone: ClassVar[Sequence[str]] = ()

    def __init__(self, **content: Any) -> None:
        self.content = content

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from opt_runner.config.compose import Composer, config_arguments
        from opt_runner.run.run import Identifier

        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        # A launcher of others may take the runs to other machines, with other devices.
        self.here = isinstance(self.launcher, RunLauncher) and self.launcher.here
        self._arguments = config_arguments(config.hydra)
        self._compose = Composer(config.hydra.job.config_name)
        self._identify = Identifier(check_device=self.here)
        self._overrides: dict[str, Sequence[str]] = {}  # by the signature of a run

    def sweep(self, arguments: list[str]) -> None:
        """Ends the program where the exit code is not 0."""
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
        """The sweep that the command line asks for. Returns the exit code."""

    def run(self, overrides: Sequence[str]) -> "Run":
        """Raises UserError, which names the run, and Hydra's exceptions for a mistake."""
        from opt_runner.run.run import command_line

        try:
            config = self._compose(overrides)
            if isinstance(self.launcher, RunLauncher):
                config = self.launcher.placed(config)
                if config.hardware.processes == "slurm":
                    raise UserError(
                        "hardware.processes=slurm: this launcher starts one process a run; "
                        "several train one run as srun --ntasks=N opt-run "
                        "hardware.processes=slurm ..., without -m"
                    )
            run = self._identify(config, command_line(self._arguments, [*overrides, *self.alone]))
        except UserError as error:
            raise UserError(f"{error} [in the run {' '.join(overrides)}]") from error
        self._overrides.setdefault(run.signature, overrides)
        return run

    def screen(self, run: "Run") -> "Screen":
        """The screen of a sweep of runs like this one."""
        from opt_runner.console.screen import Screen

        if isinstance(self.launcher, RunLauncher):
            return Screen(run.config.progress)
        # Its workers write where they like, between bars as well.
        return Screen("none" if run.config.progress == "none" else "plain")

    def at_once(self, run: "Run") -> int | None:
        """Return how many runs like this one the launcher executes at once; None if it does not
        say. Raises UserError for a launcher of others, which takes no runs one by one."""
        return self.own_launcher().at_once(run)

    def prepare(self, sweep: "Sweep", screen: "Screen") -> None:
        """Do what the launcher does for a sweep even if none of its runs is left."""
        if isinstance(self.launcher, RunLauncher):
            self.launcher.prepare(sweep, screen)

    def launch(self, sweep: "Sweep", screen: "Screen", runs: "Sequence[Run]") -> None:
        """Execute these runs. Raises what a job of another's launcher failed with."""
        assert self.launcher is not None
        if isinstance(self.launcher, RunLauncher):
            self.launcher.execute(sweep, runs, screen)
        else:
            jobs = [self._overrides[run.signature] for run in runs]
            for done in self.launcher.launch(jobs, 0):
                try:
                    done.return_value  # noqa: B018  (raises what the job raised)
                except UserError as error:  # not a mistake in this command
                    raise RuntimeError(str(error)) from error

    def serve(self, sweep: "Sweep", screen: "Screen", source: "Source", at_once: int) -> None:
        """Execute all runs of the source."""
        self.own_launcher().serve(sweep, source, at_once, screen)

    def own_launcher(self) -> RunLauncher:
        if isinstance(self.launcher, RunLauncher):
            return self.launcher
        raise UserError("a search needs hydra/launcher=pool, slurm or ray: others run grids alone")


class SearchSweeper(RunSweeper):
    """Sweeper that chooses runs by their validation error."""

    alone = ("hydra.mode=RUN",)

    def __init__(self, grids: object = None, **content: Any) -> None:
        # `grids` is a key of the default sweeper, into whose YAML that of an experiment is merged.
        super().__init__(**content, **({} if grids is None else {"grids": grids}))
