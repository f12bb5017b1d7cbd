"""What the launchers of opt-runner share: they take runs, composed and checked, not overrides."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from opt_runner.config.compose import compose

if TYPE_CHECKING:
    from opt_runner.config.schema import Config
    from opt_runner.console.screen import Screen
    from opt_runner.run.run import Run
    from opt_runner.sweep.source import Source
    from opt_runner.sweep.sweep import Sweep


class RunLauncher(Launcher):
    """here: the runs are executed on this machine, so that their device is known beforehand."""

    here = True

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def placed(self, config: "Config") -> "Config":
        """The config of a run with the device that it gets from this launcher."""
        return config

    def prepare(self, sweep: "Sweep", screen: "Screen") -> None:
        """What there is to do for a sweep even where none of its runs is left."""

    @abstractmethod
    def serve(self, sweep: "Sweep", source: "Source", at_once: int, screen: "Screen") -> None:
        """Execute the runs that a source gives, at most so many at once, each taken when there is
        room for it; each leaves its result on disk.

        Raises Interrupted, where a signal asks to stop, once what runs has been saved.
        """

    @abstractmethod
    def at_once(self, run: "Run") -> int | None:
        """How many runs like this one there is room for; None: as many as are given."""

    def execute(self, sweep: "Sweep", left: "Sequence[Run]", screen: "Screen") -> None:
        """Execute the runs of a sweep that are left. Raises as `serve` does."""
        from opt_runner.sweep.source import Listed

        self.serve(sweep, Listed(left), len(left), screen)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """For sweepers that know of no runs: Hydra's own, and others'."""
        from opt_runner.console.screen import Screen
        from opt_runner.run.run import command_line, identify
        from opt_runner.sweep.sweep import Sweep

        assert self.config is not None
        name = self.config.hydra.job.config_name
        runs = [
            identify(self.placed(compose(name, job)), command_line([], job), check_device=self.here)
            for job in job_overrides
        ]
        sweep = Sweep(runs, asked=len(runs), here=self.here)
        self.execute(sweep, runs, Screen(runs[0].config.progress))
        returns = []
        for job, run in zip(job_overrides, runs, strict=True):
            found = sweep.stored(run)
            done = JobReturn(overrides=list(job), status=JobStatus.COMPLETED)
            done.return_value = found.result.validation_error if found and found.result else None
            returns.append(done)
        return returns
