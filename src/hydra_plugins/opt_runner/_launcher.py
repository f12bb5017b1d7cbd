"""Base of opt-runner's launchers: they take runs, composed and checked, not overrides."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from opt_runner.errors import UserError

if TYPE_CHECKING:
    from opt_runner.config.options import LauncherOptions
    from opt_runner.config.schema import Config
    from opt_runner.console.screen import Screen
    from opt_runner.dispatch.loop import Backend
    from opt_runner.run.run import Run
    from opt_runner.sweep.source import Source
    from opt_runner.sweep.sweep import Sweep


class RunLauncher(Launcher):
    """Launcher of runs. content: the keys of its YAML in conf/hydra/launcher/.

    here: the runs are executed on this machine, so that their device is known beforehand.
    """

    here = True
    options: "LauncherOptions"

    def __init__(self, **content: Any) -> None:
        self.content = content

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Raise UserError for a wrong option, or if there is nothing to launch with."""
        self.hydra_context = hydra_context
        self.config = config
        self.connect()

    @abstractmethod
    def connect(self) -> None:
        """Set `options`, and whatever else the launcher needs before runs are composed."""

    @abstractmethod
    def backend(self, sweep: "Sweep", screen: "Screen") -> "Backend":
        """Return what starts the runs of a sweep."""

    @abstractmethod
    def at_once(self, run: "Run") -> int | None:
        """Return how many runs like this one there is room for; None: as many as are given."""

    def placed(self, config: "Config") -> "Config":
        """Return the config of a run with the device that it gets from this launcher."""
        return config

    def prepare(self, sweep: "Sweep", screen: "Screen") -> None:
        """Do what a sweep needs even if none of its runs is left."""

    def serve(self, sweep: "Sweep", source: "Source", at_once: int, screen: "Screen") -> None:
        """Execute the runs of a source: see `dispatch`."""
        from opt_runner.dispatch.loop import dispatch

        dispatch(source, self.backend(sweep, screen), at_once)

    def execute(self, sweep: "Sweep", left: "Sequence[Run]", screen: "Screen") -> None:
        """Execute these runs: see `dispatch`."""
        from opt_runner.sweep.source import Listed

        self.serve(sweep, Listed(left), len(left), screen)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> NoReturn:
        """Raise UserError: a sweeper of others gives overrides, and wants values back."""
        raise UserError(
            "this launcher executes the runs of hydra/sweeper=grid, optuna and fair; with another "
            "sweeper use hydra/launcher=basic"
        )
