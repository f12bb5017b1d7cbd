"""Hydra's names for the launchers; the work is done in opt_runner.dispatch."""

from typing import TYPE_CHECKING

from hydra_plugins.opt_runner._launcher import RunLauncher
from opt_runner.errors import UserError

if TYPE_CHECKING:
    from opt_runner.config.schema import Config
    from opt_runner.console.screen import Screen
    from opt_runner.dispatch import local, ray
    from opt_runner.dispatch.loop import Backend
    from opt_runner.dispatch.slurm import options as slurm
    from opt_runner.run.run import Run
    from opt_runner.sweep.sweep import Sweep


class PoolLauncher(RunLauncher):
    """hydra/launcher=pool: runs side by side on this machine."""

    options: "local.Options"

    def connect(self) -> None:
        from opt_runner.dispatch.local import Options

        self.options = Options.read(self.content)

    def backend(self, sweep: "Sweep", screen: "Screen") -> "Backend":
        from opt_runner.dispatch.local import Pool

        return Pool(self.options, sweep, screen)

    def at_once(self, run: "Run") -> int | None:
        from opt_runner.dispatch.local import slots

        return len(slots(run.config.hardware, self.options))


class RayLauncher(RunLauncher):
    """hydra/launcher=ray: runs as Ray tasks, on this machine or on a cluster."""

    options: "ray.Options"

    def connect(self) -> None:
        try:
            from opt_runner.dispatch.ray import Options, connect
        except ImportError as error:
            raise UserError(f"hydra/launcher=ray needs Ray ({error}): pip install ray") from error
        self.options = Options.read(self.content)
        self.here = self.options.address is None
        if not self.here:  # what the runs get depends on what the cluster has
            connect(self.options)

    def backend(self, sweep: "Sweep", screen: "Screen") -> "Backend":
        from opt_runner.dispatch.ray import Tasks

        return Tasks(self.options, sweep, screen)

    def at_once(self, run: "Run") -> int | None:
        from opt_runner.dispatch.ray import room

        return room(run.config.hardware, self.options) or None

    def placed(self, config: "Config") -> "Config":
        from opt_runner.dispatch.ray import placed

        return placed(config, self.options)


class SlurmLauncher(RunLauncher):
    """hydra/launcher=slurm: runs as jobs of a Slurm cluster."""

    here = False
    options: "slurm.Options"

    def connect(self) -> None:
        from opt_runner.dispatch.slurm.options import Options
        from opt_runner.dispatch.slurm.queue import require_slurm

        self.options = Options.read(self.content)
        require_slurm()

    def backend(self, sweep: "Sweep", screen: "Screen") -> "Backend":
        from opt_runner.dispatch.slurm.jobs import Jobs

        return Jobs(self.options, sweep, screen)

    def at_once(self, run: "Run") -> int | None:
        if not self.options.wait:
            raise UserError(
                "hydra.launcher.wait=false leaves before the runs have results, which this sweeper "
                "needs"
            )
        if self.options.cancel_others:
            raise UserError(
                "hydra.launcher.cancel_others=true is for grids: a search does not know beforehand "
                "which runs are its own"
            )
        return None

    def placed(self, config: "Config") -> "Config":
        return self.options.placed(config)

    def prepare(self, sweep: "Sweep", screen: "Screen") -> None:
        from opt_runner.dispatch.slurm.submission import tell_others

        tell_others(self.options, sweep, screen)
