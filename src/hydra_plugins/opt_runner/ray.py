"""hydra/launcher=ray: the runs of a sweep as Ray tasks, on this machine or on a cluster."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.opt_runner._launcher import RunLauncher
from opt_runner.errors import UserError

if TYPE_CHECKING:
    from opt_runner.config.schema import Config
    from opt_runner.console.screen import Screen
    from opt_runner.runs.run import Run
    from opt_runner.runs.sweep import Sweep


class RayLauncher(RunLauncher):
    """options: see conf/hydra/launcher/ray.yaml."""

    def __init__(self, **options: Any) -> None:
        self.content = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Raises UserError without Ray, without a cluster at the address, or for a wrong option."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        if find_spec("ray") is None:
            raise UserError(
                "hydra/launcher=ray needs Ray, which is not there: pip install 'opt-runner[ray]'"
            )
        from opt_runner.launch.ray import Options, connect

        self.options = Options.read(self.content)
        self.here = self.options.address is None
        if not self.here:  # what the runs get depends on what the cluster has
            connect(self.options)

    def placed(self, config: "Config") -> "Config":
        from opt_runner.launch.ray import placed

        return placed(config, self.options)

    def execute(self, sweep: "Sweep", left: "Sequence[Run]", screen: "Screen") -> None:
        from opt_runner.launch.ray import Tasks

        Tasks(self.options, sweep, screen).execute(left)
