"""The rest of the step: what the data path, and what logging and progress cost."""

import itertools
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from opt_runner.bench import folder, limits
from opt_runner.bench.part import LIMIT, Report, Row, Settings, spread, table, text
from opt_runner.bench.samples import Summary, Task, interleaved, paired, sampler
from opt_runner.bench.workloads import WORKLOADS
from opt_runner.config.schema import Config
from opt_runner.console.screen import RunDisplay, Screen
from opt_runner.datasets import Batches, Images
from opt_runner.records.record import Record
from opt_runner.records.result import Result
from opt_runner.run.interrupt import StopRequest
from opt_runner.run.loop import train
from opt_runner.run.set_up import Setup, set_up
from opt_runner.run.step import TrainingStep

_WORKERS = 2

# Plain training has the shortest steps: what is reported has the largest share of them. It tests
# before the first and after the last step alone, and writes no checkpoint.
_PLAIN = ("method=standard", "evaluate.every=1000000000", "checkpoint.every_seconds=1e9")
# Steps, and steps a row: of CNN-9 every one, the most that can be asked for, and of the network of
# `make run` every fifth, as it does there.
_REPORTED = {"cnn9": (4, 1), "cnn6_narrow": (200, 5)}
_QUICK_REPORTED = {"cnn6_narrow": (3, 2)}

_COLUMNS = {
    "what": text("measure"),
    "network": text("network"),
    "figure": spread("value"),
    "ms": spread("seconds", scale=1000),
    **LIMIT,
}


def run(settings: Settings) -> Report:
    network = "cnn9_tiny" if settings.quick else "cnn9"
    workload = WORKLOADS[network]
    images = workload.images()
    config = workload.config("method=standard", *settings.hardware)
    # Batches are drawn an epoch at a time: those of the step and those alone are in different ones.
    setup, other = set_up(config, images), set_up(config, images)
    report = Report(n=settings.count(7))
    settings.screen.say(f"datapath: batches, n = {report.n}")
    report.rows = [
        _share_of_a_step(network, setup, other.batches, report.n),
        _against_a_loader(network, other, images, report.n),
    ]
    for name, (steps, every) in (_QUICK_REPORTED if settings.quick else _REPORTED).items():
        settings.screen.say(f"datapath: reporting of {name}, n = {report.n}")
        report.rows += _reporting(name, steps, every, report.n, settings)
    title = f"The rest of the step; median [quartiles] of n = {report.n}"
    report.tables.append(table(title, _COLUMNS, report.rows))
    side = workload.side
    report.notes += [
        f"images: {workload.count:,} random ones of {side} x {side} x {workload.channels}, "
        f"batch {config.batch_size}",
        "share of a step: batches by the mean of the steps of plain training right before and "
        "after them",
        "the DataLoader: torchvision's Pad (symmetric), RandomCrop, RandomHorizontalFlip, ToTensor "
        "and Normalize on PIL images; two workers, started before; a sample is an epoch of each",
        "reporting: the real loop with metrics.jsonl and a bar against the loop with neither, "
        "paired; `callbacks` is the time spent inside them, measured in the loop: it tells smaller "
        "shares apart, but leaves out the thread that draws the bar. W&B is not in it",
        *limits.notes("data path"),
        *limits.notes("reporting"),
    ]
    folder.measure(report, settings)
    return report


def _share_of_a_step(network: str, setup: Setup, batches: Batches, samples: int) -> Row:
    """Batch by batch through the epochs, so that drawing an epoch's order is counted as well."""
    device = setup.device.torch_device
    taken = itertools.count()
    pairs = paired(
        sampler(Task(TrainingStep(setup)), device, shortest=0.1),
        {"batch": sampler(Task(lambda: batches.batch(next(taken))), device, shortest=0.1)},
        samples,
    )["batch"]
    row = _row("data path, share of a step", network, [pair.ratio for pair in pairs])
    return row | {"seconds": Summary.of(pair.seconds for pair in pairs)}


def _against_a_loader(network: str, setup: Setup, images: Images, samples: int) -> Row:
    """A sample is an epoch of the same images by either way."""
    device, batches = setup.device.torch_device, setup.batches
    loader = _loader(images, setup.config, pin_memory=device.type == "cuda")
    tasks = {"ours": folder.epoch_of(batches), "theirs": folder.loaded_epoch(loader, device)}
    seconds = interleaved({name: sampler(one, device) for name, one in tasks.items()}, samples)
    ours, theirs = seconds["ours"], seconds["theirs"]
    factors = [their / our for our, their in zip(ours, theirs, strict=True)]
    return _row("data path, times as fast as a DataLoader", network, factors) | {
        "seconds": Summary.of(s / batches.steps_per_epoch for s in ours),
        "loader_seconds": Summary.of(s / len(loader) for s in theirs),
    }


def _row(measure: str, network: str, samples: list[float]) -> Row:
    value = Summary.of(samples)
    judged = limits.judged(measure, value.median)
    return {"measure": measure, "network": network, "value": value, **judged}


def _loader(images: Images, config: Config, pin_memory: bool) -> DataLoader[tuple[Tensor, int]]:
    """The usual data path: the training images through torchvision's transforms in a DataLoader,
    augmented and normalised as ours.

    The workers live on from epoch to epoch: starting them is not counted.
    """
    transform = transforms.Compose(
        [
            transforms.Pad(config.augment.pad, padding_mode="symmetric"),
            transforms.RandomCrop(images.size),
            transforms.RandomHorizontalFlip(0.5 if config.augment.flip else 0.0),
            transforms.ToTensor(),
            transforms.Normalize(mean=[127.5 / 255] * 3, std=[128 / 255] * 3),
        ]
    )
    return DataLoader(
        _Pictures(images, transform),
        config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=_WORKERS,
        persistent_workers=True,
        pin_memory=pin_memory,
    )


class _Pictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR10 holds them, uint8 (N, H, W, C), one at a time through PIL."""

    def __init__(self, images: Images, transform: transforms.Compose) -> None:
        pictures = images.train_images.to("cpu").permute(0, 2, 3, 1)
        self.images: np.ndarray = pictures.contiguous().numpy()
        self.labels: list[int] = images.train_labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image: Tensor = self.transform(Image.fromarray(self.images[index]))
        return image, self.labels[index]


def _reporting(network: str, steps: int, every: int, samples: int, settings: Settings) -> list[Row]:
    """The real loop of so many steps, with and without a row `every` so many."""
    budget = (f"budget.steps={steps}", f"log.every={every}")
    config = WORKLOADS[network].config(*_PLAIN, *budget, *settings.hardware)
    images = WORKLOADS[network].images()
    shares: list[float] = []

    def loop(reporter: _Reporter) -> float:
        train(set_up(config, images), Result("", "", "", "", 0), reporter, StopRequest())
        return time.perf_counter() - reporter.started

    def quiet() -> float:
        return loop(_Reporter())

    def reported() -> float:
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
            console = Console(file=nowhere, force_terminal=True, width=120)
            with Screen("bar", console).run("benchmark", steps) as display:
                reporter = _Reporter(Record(Path(folder)), display)
                seconds = loop(reporter)
        shares.append(reporter.spent / seconds)
        return seconds

    quiet()
    reported()
    shares.clear()
    pairs = paired(quiet, {"reported": reported}, samples)["reported"]
    ratio = _row("reporting, loop with by loop without", network, [pair.ratio for pair in pairs])
    ratio["seconds"] = Summary.of(pair.seconds for pair in pairs)
    return [ratio, _row("reporting, share of callbacks", network, shares)]


class _Reporter:
    """Passes rows on to a record and a display, where there are any.

    started: when the row of step 0 was reported; spent: seconds in here since.
    """

    def __init__(self, record: Record | None = None, display: RunDisplay | None = None) -> None:
        self.record = record
        self.display = display
        self.started = self.spent = 0.0

    def report(self, row: dict[str, Any]) -> None:
        called = time.perf_counter()
        if self.record is not None and self.display is not None:
            self.record.append_metrics(row)
            self.display.report(row)
        self.spent += time.perf_counter() - called
        if row["step"] == 0:
            self.started, self.spent = time.perf_counter(), 0.0

    def pruned(self) -> bool:
        called = time.perf_counter()
        asked = self.record is not None and self.record.prune.exists()
        self.spent += time.perf_counter() - called
        return asked

    def show(self, step: int, loss: float) -> None:
        called = time.perf_counter()
        if self.display is not None:
            self.display.show(step, loss)
        self.spent += time.perf_counter() - called

    def save(self, progress: dict[str, Any]) -> None:
        """No checkpoint: how often one is written is the user's choice."""
