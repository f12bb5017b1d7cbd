"""What a sweep is going to do, said before it starts: cells, time, disk.

The time is that of a few real steps of every kind of cell, on its own data: a network that does
not fit, data that is missing and a full disk show here, not after a day.
"""

import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor
from torch.optim import Optimizer

from opt_runner.cell import Identity, set_up
from opt_runner.errors import UserError
from opt_runner.interrupt import StopRequest
from opt_runner.sweep import Sweep
from opt_runner.tracking import screen
from opt_runner.training.loop import Diverged, Progress, Setup, train

_WARM_UP, _MEASURED = 2, 5
_TEST_IMAGES = 8


@dataclass(frozen=True)
class Kind:
    """Cells that differ in nothing but their seed, and what one of them takes."""

    cells: Sequence[Identity]
    steps: int
    seconds_a_step: float
    disk: int
    data: str
    device: str

    @property
    def seconds(self) -> float:
        return len(self.cells) * self.steps * self.seconds_a_step


def show(sweep: Sweep, measure: bool) -> None:
    """Say what is finished and what is left and, with `measure`, how long that takes.

    Raises UserError where a cell cannot be set up, or the disk is too small.
    """
    results = [found.result if found else None for found in sweep.on_disk()]
    left = [
        cell
        for cell, result in zip(sweep.cells, results, strict=True)
        if cell.config.rerun or result is None or not result.settled
    ]
    begun = sum(bool(cell.record.checkpoints()) and not cell.config.rerun for cell in left)
    screen.say(
        f"plan: {len(sweep.cells)} cells: {len(sweep.cells) - len(left)} finished, {begun} to go "
        f"on with, {len(left) - begun} to run"
    )
    if measure and left and sweep.here:
        _show_cost([_measured(cells) for cells in _kinds(left)])


def _kinds(cells: Sequence[Identity]) -> list[list[Identity]]:
    kinds: dict[str, list[Identity]] = defaultdict(list)
    for cell in cells:
        kinds[cell.config.model_copy(update={"seed": 0}).model_dump_json()].append(cell)
    return list(kinds.values())


def _measured(cells: Sequence[Identity]) -> Kind:
    cell = cells[0]
    try:
        setup = set_up(cell)
    except UserError as error:
        raise UserError(f"{error} [in the cell {cell.title}]") from error
    few = replace(
        setup.data,
        test_images=setup.data.test_images[:_TEST_IMAGES],
        test_labels=setup.data.test_labels[:_TEST_IMAGES],
    )
    optimizer = setup.opt.optimizer(**cell.config.optimizer.model_dump())
    samples = [
        _seconds(replace(setup, data=few), optimizer, cell, steps)
        for steps in (_WARM_UP, *[1] * _MEASURED)
    ]
    state = [value for one in optimizer.state.values() for value in one.values()]
    tensors = [t for t in (*setup.opt.state_dict().values(), *state) if isinstance(t, Tensor)]
    data = setup.data
    return Kind(
        cells=cells,
        steps=setup.steps,
        seconds_a_step=statistics.median(samples[1:]),
        # Two checkpoints of each cell are kept.
        disk=2 * sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        data=f"{len(data.train_images):,} + {len(data.test_images):,} images",
        device=setup.hardware.name,
    )


def _seconds(setup: Setup, optimizer: Optimizer, cell: Identity, steps: int) -> float:
    """Seconds a step of the real loop, which evaluates before its first step and not before its
    second: it starts at that."""

    def ignore(*arguments: Any) -> None:
        pass

    progress, started = Progress(step=1), time.perf_counter()
    # So short a schedule has no warm-up; its steps take as long, wherever they lead.
    with suppress(Diverged, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        train(
            replace(setup, steps=steps + 1), optimizer, cell.config, progress,
            ignore, ignore, ignore, StopRequest(),
        )  # fmt: skip
    # Of a lost step `train` keeps no time; else it leaves out the test after the last step.
    return (progress.seconds or time.perf_counter() - started) / steps


def _show_cost(kinds: Sequence[Kind]) -> None:
    table = Table(box=SIMPLE_HEAD, header_style="bold")
    for heading in ("dataset", "model", "method", "cells", "steps", "ms a step", "time"):
        table.add_column(heading, justify="right" if heading in _FIGURES else "left")
    for kind in kinds:
        config = kind.cells[0].config
        table.add_row(
            config.dataset.name, config.model.name, config.method.name, str(len(kind.cells)),
            f"{kind.steps:,}", f"{1000 * kind.seconds_a_step:,.1f}", screen.duration(kind.seconds),
        )  # fmt: skip
    screen.console.print(table)
    disk = sum(
        max(0, kind.disk - sum(path.stat().st_size for path in cell.record.checkpoints()))
        for kind in kinds
        for cell in kind.cells
    )
    folder = Path(kinds[0].cells[0].config.output_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    screen.say(
        f"time left: at most {screen.duration(sum(k.seconds for k in kinds))} of training, tests "
        f"not counted, on {kinds[0].device}; data: {kinds[0].data}; "
        f"disk: {_mebibytes(disk)} of {_mebibytes(free)} free"
    )
    if disk > free:
        raise UserError(
            f"the records need {_mebibytes(disk)} and {folder} has {_mebibytes(free)} free: make "
            "room or set output_dir=DIR"
        )


_FIGURES = ("cells", "steps", "ms a step", "time")


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
