"""A sweep: all its cells are composed and checked before the first one starts."""

import hashlib
import os
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from opt_runner import config
from opt_runner.errors import UserError

if TYPE_CHECKING:
    from opt_runner.cell import Identity
    from opt_runner.records import Result
    from opt_runner.report.cells import Cell


@dataclass
class Sweep:
    """The cells of a sweep, each once, in the order in which they are launched.

    here: they run on this machine, so that their device, and with it their signature, is known.
    """

    cells: list["Identity"]
    jobs: int
    here: bool
    done: dict[str, "Result"] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The same cells make the same sweep, also when it is started again."""
        signatures = " ".join(sorted(cell.signature for cell in self.cells))
        name = self.cells[0].config.experiment_name
        return f"{name}-{hashlib.sha256(signatures.encode()).hexdigest()[:8]}"

    def on_disk(self) -> "list[Cell | None]":
        """What there is of each cell; None for one that has not begun."""
        from opt_runner.report import cells

        if self.here:
            return [cells.read(cell.record.directory) for cell in self.cells]
        contents = [cell.config.model_dump(mode="json", by_alias=True) for cell in self.cells]
        return [
            cells.of_any_device(cells.Cell(cell.record, content, None))
            for cell, content in zip(self.cells, contents, strict=True)
        ]


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
            _show(planned)
        except Exception as error:
            raise PlanFailed(error) from error
        from opt_runner.tracking import screen, tracker

        current = planned
        os.environ[tracker.SWEEP_VARIABLE] = planned.id
        _open.enter_context(screen.sweep(len(planned.cells)))
        if planned.jobs > len(planned.cells):
            screen.say(f"{planned.jobs - len(planned.cells)} duplicate cells run once")


def _show(planned: Sweep) -> None:
    from opt_runner import plan
    from opt_runner.tracking import screen

    first = planned.cells[0].config
    screen.set_mode(first.progress)
    if first.note:
        screen.say(first.note)
    plan.show(planned, first.plan.measure)


def command(config_folders: Sequence[str], overrides: Sequence[str]) -> str:
    """opt-run with these arguments. A sweep's experiment makes it a sweep, of this one cell."""
    folders = [part for folder in config_folders for part in ("--config-dir", folder)]
    return shlex.join(["opt-run", *folders, *overrides])


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
            cell = identify(config.compose(master.hydra.job.config_name, job), check_device=here)
        except UserError as error:
            raise UserError(f"{error} [in the cell {' '.join(job)}]") from error
        cells.setdefault(cell.signature, cell)
    return Sweep(list(cells.values()), len(jobs), here)
