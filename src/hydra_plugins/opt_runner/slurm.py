"""hydra/launcher=slurm: the runs of a sweep on a Slurm cluster."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
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


class SlurmLauncher(RunLauncher):
    """options: see conf/hydra/launcher/slurm.yaml."""

    here = False

    def __init__(self, **options: Any) -> None:
        self.content = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from opt_runner.dispatch.slurm import queue
        from opt_runner.dispatch.slurm.options import Options

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.options = Options.read(self.content)
        queue.require_slurm()

    def placed(self, config: "Config") -> "Config":
        return self.options.placed(config)

    def prepare(self, sweep: "Sweep", screen: "Screen") -> None:
        from opt_runner.dispatch.slurm.others import mind_others

        mind_others(self.options, sweep, screen)

    def serve(self, sweep: "Sweep", source: "Source", at_once: int, screen: "Screen") -> None:
        from opt_runner.dispatch.slurm.jobs import Jobs

        Jobs(self.options, sweep, screen).execute(source, at_once)

    def at_once(self, run: "Run") -> int | None:
        self._require_results()
        if self.options.cancel_others:
            raise UserError(
                "hydra.launcher.cancel_others=true is for grids: a search does not know beforehand "
                "which runs are its own"
            )
        return None

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        self._require_results()
        return super().launch(job_overrides, initial_job_idx)

    def _require_results(self) -> None:
        if not self.options.wait:
            raise UserError(
                "hydra.launcher.wait=false leaves before the runs have results, which this sweeper "
                "needs"
            )
