"""The rest of the step: the data path, and logging with a progress bar."""

import itertools
import os
import tempfile
from collections.abc import Callable
from operator import truediv
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.report import Column, Report, Row, Settings, say, table
from benchmarks.samples import Summary, Task, interleaved, paired, sampler
from benchmarks.workloads import WORKLOADS
from opt_runner.console.screen import Screen
from opt_runner.datasets import Batches, Images, Measure
from opt_runner.records.record import Record
from opt_runner.run.step import TrainingStep

_WORKERS = 2

# A row of metrics with a test, as the training loop writes it for nine layers.
_LAYERS = {f"features.{layer}": 123.456 + layer for layer in range(9)}
_ROW: dict[str, Any] = {
    "step": 1000, "epoch": 2.5, "lr": 0.1, "train_loss": 0.123, "penalty": 0.0, "seconds": 10.5,
    "samples_per_second": 1234.5, "test_error": 5.5, "energy": _LAYERS, "energy_excess": _LAYERS,
}  # fmt: skip


def run(settings: Settings) -> Report:
    """Measure batches of small images, and logging."""
    network = "cnn9_tiny" if settings.quick else "cnn9"
    report = Report(n=settings.count(7))
    say(f"datapath: n = {report.n}")
    report.rows = [_batches(network, settings), _against_a_loader(network, report.n, settings)]
    for name in [network] if settings.quick else ["cnn9", "cnn6_narrow"]:
        report.rows.append(_reporting(name, settings))
    title = f"The rest of the step; median [quartiles] of n = {report.n}"
    columns: dict[str, Column] = {"measured": "measure", "network": "network", "figure": "ratio"}
    columns["ms"] = ("seconds", 1000)
    report.tables.append(table(title, columns, report.rows))
    report.notes += [
        "share of a step: by the mean of the steps of plain training right before and after",
        "the DataLoader: torchvision's Pad (symmetric), RandomCrop, RandomHorizontalFlip, ToTensor "
        "and Normalize on PIL images; two workers, started before; a sample is an epoch of each",
        "reporting: a row of metrics with a test in metrics.jsonl, and an update of a bar, as if "
        "after every step; without the thread that draws the bar, and without W&B",
    ]
    return report


def _plain_step(network: str, settings: Settings) -> TrainingStep:
    images = WORKLOADS[network].images()
    return WORKLOADS[network].step(images, "method=standard", *settings.hardware)


def _share_of_a_step(
    measure: str, network: str, task: Callable[[], object], settings: Settings
) -> Row:
    """Return the time of the task as share of a step of plain training."""
    device = settings.used.torch_device
    samplers = {"task": sampler(Task(task), device, shortest=0.1)}
    baseline = sampler(Task(_plain_step(network, settings)), device, shortest=0.1)
    row = paired(baseline, samplers, settings.count(7))["task"]
    return {"measure": f"{measure}, share of a step", "network": network, **row}


def _batches(network: str, settings: Settings) -> Row:
    """Draw batches through the epochs, so that drawing an epoch's order is counted as well."""
    batches, taken = _plain_step(network, settings).setup.batches, itertools.count()
    return _share_of_a_step("data path", network, lambda: batches.batch(next(taken)), settings)


def _against_a_loader(network: str, samples: int, settings: Settings) -> Row:
    """Sample an epoch of the same images in either way."""
    device, setup = settings.used.torch_device, _plain_step(network, settings).setup
    augment, batches, images = setup.config.augment, setup.batches, setup.data
    assert isinstance(images, Images)
    transform = transforms.Compose(
        [
            transforms.Pad(augment.pad, padding_mode="symmetric"),
            transforms.RandomCrop(images.size),
            transforms.RandomHorizontalFlip(0.5 if augment.flip else 0.0),
            transforms.ToTensor(),
            transforms.Normalize(mean=[127.5 / 255] * 3, std=[128 / 255] * 3),
        ]
    )
    pictures, size = _Pictures(images, transform), batches.batch_size
    tasks = {"ours": epoch_of(batches), "theirs": loaded_epoch(pictures, size, device)}
    seconds = interleaved({name: sampler(one, device) for name, one in tasks.items()}, samples)
    return {
        "measure": "data path, times as fast as a DataLoader",
        "network": network,
        "ratio": Summary.of(map(truediv, seconds["theirs"], seconds["ours"])),
        "seconds": Summary.of(s / batches.steps_per_epoch for s in seconds["ours"]),
    }


def epoch_of(batches: Batches) -> Task:
    """Return a task that takes the next epoch of batches."""
    taken = itertools.count()

    def run() -> None:
        for _ in range(batches.steps_per_epoch):
            batches.batch(next(taken))

    return Task(run)


def loaded_epoch(pictures: Dataset[Any], batch_size: int, device: torch.device) -> Task:
    """Return a task that brings an epoch of a DataLoader to the device.

    Its workers live from epoch to epoch: starting them is not counted.
    """
    loader = DataLoader(
        pictures, batch_size, shuffle=True, drop_last=True, num_workers=_WORKERS,
        persistent_workers=True, pin_memory=device.type == "cuda",
    )  # fmt: skip

    def run() -> None:
        for x, y in loader:
            x.to(device, non_blocking=True)
            y.to(device, non_blocking=True)

    return Task(run)


class _Pictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR10 holds them, uint8 (N, H, W, C), one at a time through PIL."""

    def __init__(self, images: Images, transform: transforms.Compose) -> None:
        self.images = images.train.inputs.to("cpu").permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.train.targets.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def _reporting(network: str, settings: Settings) -> Row:
    """Measure rows of metrics and updates of the bar."""
    with tempfile.TemporaryDirectory() as name, open(os.devnull, "w") as nowhere:
        record = Record(Path(name))
        console = Console(file=nowhere, force_terminal=True, width=120)
        with Screen("bar", console).run("benchmark", 100, Measure()) as display:

            def report() -> None:
                record.append_metrics(_ROW)
                display.report(_ROW)
                display.show(1, 0.123)

            return _share_of_a_step("reporting", network, report, settings)
