"""hydra/launcher=ray: the runs of a sweep as Ray tasks, on this machine or on a cluster."""

from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.opt_runner._launcher import RunLauncher
from opt_runner.errors import UserError

if TYPE_CHECKING:
    from opt_runner.config.schema import Config
    from opt_runner.console.screen import Screen
    from opt_runner.run.run import Run
    from opt_runner.sweep.source import Source
    from opt_runner.sweep.sweep import Sweep


class RayLauncher(RunLauncher):
    """options: see conf/hydra/launcher/ray.yaml."""

    def __init__(self, **options: Any) -> None:
        self.content = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Raises UserError without Ray, without a cluster at the address, or for a wrong option."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        try:
            from opt_runner.dispatch.ray import Options, connect
        except ImportError as error:
            raise UserError(
                f"hydra/launcher=ray needs Ray ({error}): pip install 'opt-runner[ray]'"
            ) from error
        self.options = Options.read(self.content)
        self.here = self.options.address is None
        if not self.here:  # what the runs get depends on what the cluster has
            connect(self.options)

    def placed(self, config: "Config") -> "Config":
        from opt_runner.dispatch.ray import placed

        return placed(config, self.options)

    def serve(self, sweep: "Sweep", source: "Source", at_once: int, screen: "Screen") -> None:
        from opt_runner.dispatch.ray import Tasks

        Tasks(self.options, sweep, screen).execute(source, at_once)

    def at_once(self, run: "Run") -> int | None:
        from opt_runner.dispatch.ray import room

        return room(run.config.hardware, self.options) or None
