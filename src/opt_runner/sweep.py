"""A sweep: all its cells are composed and checked before the first one starts."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from opt_runner import config
from opt_runner.errors import UserError

if TYPE_CHECKING:
    from opt_runner.cell import Identity
    from opt_runner.records import Result


@dataclass
class Sweep:
    """The cells of a sweep, each once, in the order in which they are launched."""

    cells: list["Identity"]
    jobs: int
    done: dict[str, "Result"] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The same cells make the same sweep, also when it is started again."""
        signatures = " ".join(sorted(cell.signature for cell in self.cells))
        name = self.cells[0].config.experiment_name
        return f"{name}-{hashlib.sha256(signatures.encode()).hexdigest()[:8]}"

    def results(self) -> Iterator[tuple["Identity", "Result | None"]]:
        """What is on disk for each cell; None for one that never got to write it whole."""
        for cell in self.cells:
            try:
                yield cell, cell.record.read_result()
            except UserError:
                yield cell, None


class PlanFailed(BaseException):
    """Carries its cause out of Hydra, which would turn a callback's Exception into a warning."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


current: Sweep | None = None
_open = ExitStack()


class SweepCallback(Callback):
    """Hydra calls this before it launches: a fault in any cell ends the sweep here."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global current
        if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
            return  # Another sweeper chooses its cells as it goes.
        try:
            planned = _plan(config)
        except Exception as error:
            raise PlanFailed(error) from error
        from opt_runner.tracking import screen, tracker

        current = planned
        os.environ[tracker.SWEEP_VARIABLE] = planned.id
        _open.enter_context(screen.sweep(len(planned.cells)))
        if planned.jobs > len(planned.cells):
            screen.say(f"{planned.jobs - len(planned.cells)} duplicate cells run once")


def close() -> None:
    _open.close()


def _plan(master: DictConfig) -> Sweep:
    from opt_runner.cell import identify

    overrides = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
    overrides += master.hydra.overrides.task
    parsed = OverridesParser.create().parse_overrides(overrides)
    (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    # The device of a cell that a cluster runs is the cluster's.
    here = "submitit" not in master.hydra.launcher._target_
    cells: dict[str, Identity] = {}
    for job in jobs:
        try:
            cell = identify(config.read(compose(master.hydra.job.config_name, job)), here)
        except UserError as error:
            raise UserError(f"{error} [in the cell {' '.join(job)}]") from error
        cells.setdefault(cell.signature, cell)
    return Sweep(list(cells.values()), len(jobs))
