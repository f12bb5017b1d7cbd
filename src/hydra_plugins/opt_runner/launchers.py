"""Hydra's names for the launchers of opt_runner.dispatch."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from opt_runner.errors import UserError

if TYPE_CHECKING:
    from opt_runner.dispatch.loop import LauncherOptions


class RunLauncher(Launcher):
    """A launcher that gets composed and checked runs, not overrides. content: its YAML's keys."""

    def __init__(self, **content: Any) -> None:
        self.content = content

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Raise UserError for a wrong option, or if there is nothing to launch with."""
        self.config = config
        self.options = self.kind().read(self.content)
        self.options.connect()

    @abstractmethod
    def kind(self) -> "type[LauncherOptions]":
        """Import and return the class of its options; not at the top, as `--help` must be fast."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> NoReturn:
        """Raise UserError: a sweeper of another package passes overrides and wants values back."""
        raise UserError(
            "this launcher executes the runs of hydra/sweeper=grid, optuna and fair; with another "
            "sweeper use hydra/launcher=basic"
        )


class PoolLauncher(RunLauncher):
    """hydra/launcher=pool: runs side by side on this machine."""

    def kind(self) -> "type[LauncherOptions]":
        from opt_runner.dispatch.local import PoolOptions

        return PoolOptions


class RayLauncher(RunLauncher):
    """hydra/launcher=ray: runs as Ray tasks, on this machine or on a cluster."""

    def kind(self) -> "type[LauncherOptions]":
        try:
            from opt_runner.dispatch.ray import RayOptions
        except ImportError as error:
            raise UserError(f"hydra/launcher=ray needs Ray ({error}): pip install ray") from error
        return RayOptions


class SlurmLauncher(RunLauncher):
    """hydra/launcher=slurm: runs as jobs of a Slurm cluster."""

    def kind(self) -> "type[LauncherOptions]":
        from opt_runner.dispatch.slurm.options import SlurmOptions

        return SlurmOptions
