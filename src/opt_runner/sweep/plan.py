"""The plan of a sweep, shown before it starts: runs, time, disk.

The time comes from a few real steps of each kind of run on its own data. So a network that does not
fit, missing data and a full disk are found before the sweep starts.
"""

import json
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from opt_runner.config.schema import Role, of_roles
from opt_runner.console.screen import Screen, duration
from opt_runner.datasets import loaded
from opt_runner.errors import UserError, counted
from opt_runner.files import existing
from opt_runner.machine import available_cores
from opt_runner.report.terminal import grid
from opt_runner.run.run import Run
from opt_runner.run.set_up import Setup, set_up
from opt_runner.run.size import memory_of_step
from opt_runner.run.step import TrainingStep
from opt_runner.sweep.sweep import Sweep

_WARM_UP, _MEASURED = 2, 5
_FIGURES = ("runs", "steps", "memory", "ms a step", "time")


@dataclass(frozen=True)
class Kind:
    """The cost of runs that need the same time and space.

    memory: bytes of a step; None if the shapes are not enough. checkpoints: bytes of a training
    run's two checkpoints and of a third, which is being written. weights: bytes that a finished
    run keeps.
    """

    runs: Sequence[Run]
    steps: int
    seconds_a_step: float
    memory: int | None
    checkpoints: int
    weights: int
    data: str
    device: str

    @property
    def seconds(self) -> float:
        return len(self.runs) * self.steps * self.seconds_a_step


def kind_of(run: Run) -> str:
    """Return the same text for runs that differ only in their seed."""
    same = of_roles(run.config.content, Role.TABLE, Role.METHOD)
    return json.dumps(same, sort_keys=True)


def show(
    sweep: Sweep, left: Sequence[Run], screen: Screen, kind_of: Callable[[Run], str] = kind_of
) -> None:
    """Show the number of finished and remaining runs and, with `plan.measure`, their cost.

    kind_of: returns the same text for runs of the same cost, of which one is measured.
    Raises UserError if a run cannot be set up, or the disk is too small.
    """
    begun = sum(bool(run.record.checkpoints()) and not run.config.rerun for run in left)
    screen.say(
        f"plan: {counted(len(sweep.runs), 'run')}: {len(sweep.runs) - len(left)} finished, {begun} "
        f"to resume, {len(left) - begun} to run"
    )
    if left and sweep.here and left[0].config.plan.measure:
        kinds: dict[str, list[Run]] = defaultdict(list)
        for run in left:
            kinds[kind_of(run)].append(run)
        show_cost(kinds.values(), screen)


def try_set_up(run: Run) -> Setup:
    """Set a run up. Raises UserError, which names the run, if its parts do not fit."""
    try:
        return set_up(run.config, loaded(run.dataset))
    except UserError as error:
        raise UserError(f"{error} [in the run {run.title}]") from error


def _measured(runs: Sequence[Run]) -> Kind:
    setup = try_set_up(runs[0])
    memory = memory_of_step(setup.config, setup.data, setup.device.torch_device)
    setup.opt.train()
    step = TrainingStep(setup)
    samples = []
    # A step that leads to NaN takes as long as any other.
    with closing(setup.batches), suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        for _ in range(_WARM_UP + _MEASURED):
            started = time.perf_counter()
            step()
            step.diverged_at()  # waits for a GPU
            samples.append(time.perf_counter() - started)
    counts = [len(setup.data.train), len(setup.data.test)]
    if setup.validation is not None:
        counts.insert(1, len(setup.validation))
    return Kind(
        runs=runs,
        steps=setup.steps,
        seconds_a_step=statistics.median(samples[_WARM_UP:] or samples or [0.0]),
        memory=memory,
        checkpoints=3 * setup.checkpoint_bytes(),
        weights=sum(t.numel() * t.element_size() for t in setup.opt.network.state_dict().values()),
        data=f"{' + '.join(f'{count:,}' for count in counts)} {setup.data.samples}",
        device=setup.device.name,
    )


def show_cost(groups: Iterable[Sequence[Run]], screen: Screen) -> None:
    """Show the cost of groups of runs; one run of each is measured. Raises as `show` does."""
    kinds = [_measured(runs) for runs in groups]
    table = grid()
    for heading in ("dataset", "model", "method", *_FIGURES):
        table.add_column(heading, justify="right" if heading in _FIGURES else "left")
    for kind in kinds:
        config = kind.runs[0].config
        table.add_row(
            config.dataset.name, config.model.name, config.method.name, str(len(kind.runs)),
            f"{kind.steps:,}", "?" if kind.memory is None else _mebibytes(kind.memory),
            f"{1000 * kind.seconds_a_step:,.1f}", duration(kind.seconds),
        )  # fmt: skip
    screen.show(table)
    # At most one run for each core trains at a time and has checkpoints.
    at_once = min(available_cores(), sum(len(kind.runs) for kind in kinds))
    disk = sum(len(kind.runs) * kind.weights for kind in kinds)
    disk += at_once * max(kind.checkpoints for kind in kinds)
    folder = existing(Path(kinds[0].runs[0].config.output_dir))
    free = shutil.disk_usage(folder).free
    screen.say(
        f"time left: at most {duration(sum(k.seconds for k in kinds))} of training, tests "
        f"not counted, on {kinds[0].device}; data: {kinds[0].data}; "
        f"disk: {_mebibytes(disk)} of {_mebibytes(free)} free"
    )
    if disk > free:
        raise UserError(
            f"the records need {_mebibytes(disk)} and {folder} has {_mebibytes(free)} free: make "
            "room or set output_dir=DIR"
        )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
