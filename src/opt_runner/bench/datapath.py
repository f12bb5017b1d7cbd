"""The rest of the step: what the data path, and what logging and progress cost."""

from dataclasses import asdict

from rich.table import Table
from torch import Tensor

from opt_runner.bench import dataloader
from opt_runner.bench.cells import compose
from opt_runner.bench.forms import Store, eager
from opt_runner.bench.report import Report, Row, table, verdict
from opt_runner.bench.reported_loop import LoopSampler
from opt_runner.bench.settings import Settings
from opt_runner.bench.summary import Summary
from opt_runner.bench.timing import Task, interleaved, paired, sampler
from opt_runner.bench.workloads import WORKLOADS, Workload
from opt_runner.console.screen import say
from opt_runner.datasets import Digits, Images

_SHARE_LIMIT = 0.03  # of a step
_FACTOR_LIMIT = 10.0  # times as fast as the DataLoader
_REPORTING_LIMIT = 0.01  # of a step


def run(settings: Settings) -> Report:
    workload = WORKLOADS["cnn9_tiny" if settings.quick else "cnn9"]
    store = workload.store()
    report = Report(n=settings.count(7))
    say(f"datapath: batches, n = {report.n}")
    report.rows += [
        _share_of_a_step(workload, store, report.n, settings),
        _against_a_loader(workload, store, report.n, settings),
    ]
    for name, overrides in _cells(settings.quick).items():
        say(f"datapath: reporting of {name}, n = {report.n}")
        images = _images(*store) if name == "cnn9" else _digits()
        report.rows += _reporting(name, overrides, images, report.n, settings)
    report.tables.append(_table(report.rows, report.n))
    report.notes += [
        f"images: {len(store[0]):,} random ones of {workload.side} x {workload.side} x "
        f"{workload.channels}, batch {workload.batch_size}",
        "share of a step: batches by the mean of the steps of plain training right before and "
        "after them",
        "the DataLoader: torchvision's Pad (symmetric), RandomCrop, RandomHorizontalFlip, ToTensor "
        "and Normalize on PIL images; two workers, started before; a sample is an epoch of each",
        "reporting: the real loop with metrics.jsonl and a bar against the loop with neither, "
        "paired; `callbacks` is the time spent inside them, measured in the loop: it tells smaller "
        "shares apart, but leaves out the thread that draws the bar. W&B is not in it",
    ]
    return report


def _share_of_a_step(workload: Workload, store: Store, samples: int, settings: Settings) -> Row:
    """Batch by batch through the epochs, so that drawing an epoch's order is counted as well."""
    device = settings.hardware.device
    step = eager(workload, "standard", store, settings.hardware)
    batches = workload.batches(store, settings.hardware)
    position = 0

    def take() -> None:
        nonlocal position
        batches.batch(position)
        position += 1

    pairs = paired(
        sampler(Task(step), device, shortest=0.1),
        {"batch": sampler(Task(take), device, shortest=0.1)},
        samples,
    )["batch"]
    share = Summary.of(pair.ratio for pair in pairs)
    return {
        "measure": "data path, share of a step",
        "network": workload.name,
        "value": asdict(share),
        "seconds": asdict(Summary.of(pair.seconds for pair in pairs)),
        "limit": _SHARE_LIMIT,
        "met": share.median <= _SHARE_LIMIT,
    }


def _against_a_loader(workload: Workload, store: Store, samples: int, settings: Settings) -> Row:
    """A sample is an epoch of the same images by either way."""
    device = settings.hardware.device
    batches = workload.batches(store, settings.hardware)
    loader = dataloader.loader(
        *store, workload.augment, workload.batch_size, pin_memory=device.type == "cuda"
    )
    taken = 0

    def our_epoch() -> None:
        nonlocal taken
        for _ in range(batches.steps_per_epoch):
            batches.batch(taken)
            taken += 1

    seconds = interleaved(
        {
            "ours": sampler(Task(our_epoch), device),
            "theirs": sampler(Task(lambda: dataloader.epoch(loader, device)), device),
        },
        samples,
    )
    factor = Summary.of(
        theirs / ours for ours, theirs in zip(seconds["ours"], seconds["theirs"], strict=True)
    )
    return {
        "measure": "data path, times as fast as a DataLoader",
        "network": workload.name,
        "value": asdict(factor),
        "seconds": asdict(Summary.of(t / batches.steps_per_epoch for t in seconds["ours"])),
        "loader_seconds": asdict(Summary.of(t / len(loader) for t in seconds["theirs"])),
        "limit": _FACTOR_LIMIT,
        "met": factor.median >= _FACTOR_LIMIT,
    }


def _cells(quick: bool) -> dict[str, list[str]]:
    """The cells whose loops report: arguments of opt-run.

    Plain training has the shortest steps and so the largest share. CNN-9 reports every step, the
    most that can be asked for; the network of `make run` every fifth, as it does there. They test
    after the last step alone and write no checkpoint.
    """
    common = ["method=standard", "evaluate.every=1000000000", "checkpoint.every_seconds=1e9"]
    narrow = [*common, "model.widths=[32,32,32]", "model.fc_width=32", "dataset=digits"]
    if quick:
        return {"cnn6_narrow": [*narrow, "budget.steps=3", "log.every=2"]}
    return {
        "cnn9": [*common, "model=cnn9", "dataset=cifar10", "budget.steps=4", "log.every=1"],
        "cnn6_narrow": [*narrow, "budget.steps=200", "log.every=5"],
    }


def _images(images: Tensor, labels: Tensor) -> Images:
    """To train on; two of them to test on, as the loop tests once and that is not asked here."""
    classes = [str(label) for label in range(int(labels.max()) + 1)]
    return Images(images, labels, images[:2], labels[:2], classes)


def _digits() -> Images:
    data = Digits().load()
    return _images(data.train_images, data.train_labels)


def _reporting(
    name: str, overrides: list[str], images: Images, samples: int, settings: Settings
) -> list[Row]:
    cell = compose(*overrides)
    data = images.to(settings.hardware.device)
    loops = [LoopSampler(cell, data, settings.hardware, reported) for reported in (False, True)]
    for loop in loops:
        loop()
        loop.shares.clear()
    quiet, reported = loops
    pairs = paired(quiet, {"reported": reported}, samples)["reported"]
    ratio, share = Summary.of(pair.ratio for pair in pairs), Summary.of(reported.shares)
    return [
        {
            "measure": "reporting, loop with by loop without",
            "network": name,
            "value": asdict(ratio),
            "seconds": asdict(Summary.of(pair.seconds for pair in pairs)),
            "limit": 1 + _REPORTING_LIMIT,
            "met": ratio.median <= 1 + _REPORTING_LIMIT,
        },
        {
            "measure": "reporting, share of callbacks",
            "network": name,
            "value": asdict(share),
            "limit": _REPORTING_LIMIT,
            "met": share.median <= _REPORTING_LIMIT,
        },
    ]


def _table(rows: list[Row], samples: int) -> Table:
    cells = [
        [
            row["measure"],
            row["network"],
            Summary(**row["value"]).text(),
            Summary(**row["seconds"]).text(scale=1000) if "seconds" in row else "",
            f"{row['limit']:g}",
            verdict(row["met"]),
        ]
        for row in rows
    ]
    title = f"The rest of the step; median [quartiles] of n = {samples}"
    return table(title, ["what", "network", "figure", "ms", "limit", "met"], cells)
