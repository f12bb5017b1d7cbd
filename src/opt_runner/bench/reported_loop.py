"""The real training loop, with all that a cell reports or with none of it."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from opt_runner import components
from opt_runner.config import Config
from opt_runner.console import screen
from opt_runner.datasets import Augment, Batches, Images
from opt_runner.hardware import Hardware
from opt_runner.opt import OPT
from opt_runner.records import Record
from opt_runner.training.interrupt import StopRequest
from opt_runner.training.loop import Progress, Setup, train


class LoopSampler:
    """Each call trains a new network and gives the seconds of the loop.

    reported: rows are appended to metrics.jsonl and a bar is drawn; else neither.
    shares: of each call's time, what the two callbacks took. The bar's own thread, which draws it
    ten times a second, and the loop's work for a row are not in it, but in the call's seconds.
    """

    def __init__(self, cell: Config, data: Images, hardware: Hardware, reported: bool) -> None:
        self.cell = cell
        self.data = data
        self.hardware = hardware
        self.reported = reported
        self.steps = cell.budget.in_steps(len(data.train_images) // cell.batch_size)
        self.shares: list[float] = []

    def __call__(self) -> float:
        with tempfile.TemporaryDirectory() as folder:
            record = Record(Path(folder))
            if not self.reported:
                return self._train(lambda row: None, lambda progress, loss: None)
            with _bar_to_nowhere(self.steps) as bar:

                def report(row: dict[str, Any]) -> None:
                    record.append_metrics(row)
                    bar.report(row)

                return self._train(report, bar.show)

    def _train(
        self,
        report: Callable[[dict[str, Any]], None],
        show: Callable[[Progress, float], None],
    ) -> float:
        network = components.build(
            self.cell.model,
            "model",
            in_channels=self.data.channels,
            image_size=self.data.size,
            num_classes=self.data.num_classes,
            bn_momentum=0.1,
        )
        opt = OPT(self.hardware.place(network), components.build(self.cell.method, "method"))
        optimizer = opt.optimizer(**self.cell.optimizer.model_dump())
        batches = Batches(
            self.data.train_images,
            self.data.train_labels,
            self.cell.batch_size,
            self.cell.seed,
            Augment(**self.cell.augment.model_dump()),
            self.hardware.memory_format,
        )
        # As if one step were done: before the first one the loop evaluates.
        setup = Setup(self.hardware, self.data, batches, opt, self.steps + 1)
        progress = Progress(step=1)
        spent: list[float] = []
        report, show = _timed(report, spent), _timed(show, spent)
        started = time.perf_counter()
        train(setup, optimizer, self.cell, progress, report, _save, show, StopRequest())
        seconds = time.perf_counter() - started
        self.shares.append(sum(spent) / seconds)
        return seconds


def _save(progress: dict[str, Any]) -> None:
    """No checkpoint: how often one is written is the user's choice."""


def _timed(function: Callable[..., None], spent: list[float]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        started = time.perf_counter()
        function(*arguments)
        spent.append(time.perf_counter() - started)

    return call


@contextmanager
def _bar_to_nowhere(steps: int) -> Iterator[screen.CellBar]:
    """A cell's bar as on a terminal, whatever the output is, drawn where nobody sees it."""
    console = screen.console
    with open(os.devnull, "w") as nowhere:
        screen.console = Console(file=nowhere, force_terminal=True, width=120)
        try:
            with screen.cell("benchmark", steps) as bar:
                yield bar
        finally:
            screen.console = console
