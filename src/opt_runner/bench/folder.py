"""A folder of pictures: batches that are streamed from our cache, against torchvision's way."""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from opt_runner.bench.memory import held, peak
from opt_runner.bench.part import Report, Row, Settings, spread, table, text
from opt_runner.bench.samples import Summary, Task, interleaved, sampler
from opt_runner.datasets import Augment, Batches, ImageFolder, pieces

_WORKERS = 2
_LEAST = 0.08  # of a picture's area in a crop
_CPU = torch.device("cpu")


def measure(report: Report, settings: Settings) -> None:
    """Add rows, a table and notes to the report."""
    count, side, batch_size = (64, 32, 16) if settings.quick else (2_000, 224, 128)
    samples = settings.count(5)
    settings.screen.say(f"datapath: {count:,} pictures of {side} x {side}, n = {samples}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _draw_pictures(folder, count, side)
        rows = [_decoded_once(folder, count, samples)]
        rows += _epochs(folder, side, batch_size, samples, settings)
        rows += _memory(folder, count // 4, side, samples)
    report.rows += rows
    columns = {"a folder of pictures": text("measure"), "value": spread("value")}
    title = f"{count:,} JPEG files of {side} x {side}, batch {batch_size}"
    report.tables.append(table(f"{title}; median [quartiles] of n = {samples}", columns, rows))
    report.notes += [
        "folder: smooth random pictures, which the system has in its memory of files. Ours: "
        f"decoded once, then random resized crops ({_LEAST} of the area at least), flips and "
        "normalisation of whole batches on the device. The DataLoader: torchvision's ImageFolder, "
        "the same by transforms.v2, and decoding, picture by picture in two workers, started "
        "before. Samples are epochs, in turn",
        "folder, memory: growth of a process to its largest resident size (VmHWM) while it decodes "
        "so many pictures, streams an epoch of batches of them and then all test images",
    ]


def _draw_pictures(folder: Path, count: int, side: int) -> None:
    """train/a, train/b and the like: smooth, as photos are, so that JPEG has its usual work."""
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        half = "test" if number % 10 == 0 else "train"
        place = folder / half / "ab"[number // 10 % 2]
        place.mkdir(parents=True, exist_ok=True)
        coarse = torch.randint(256, (side // 8, side // 8, 3), generator=generator).byte().numpy()
        picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        picture.save(place / f"{number}.jpg", quality=90)


def _decoded_once(folder: Path, count: int, samples: int) -> Row:
    def decode() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            started = time.perf_counter()
            ImageFolder(str(folder), cache_dir=cache).load()
            return count / (time.perf_counter() - started)

    return _row("decoded once, images a second", [decode() for _ in range(samples)])


def _epochs(
    folder: Path, side: int, batch_size: int, samples: int, settings: Settings
) -> list[Row]:
    device = settings.device
    images = ImageFolder(str(folder), cache_dir=str(folder)).load()
    labels = images.train_labels.to(device.torch_device)
    augment = Augment(resized_crop=_LEAST)
    make = partial(
        Batches, labels=labels, batch_size=batch_size, seed=0, augment=augment,
        memory_format=device.memory_format,
    )  # fmt: skip
    streamed = make(images.train_images, streamed=True)
    on_device = make(images.train_images.to(device.torch_device))
    loader = _loader(folder, side, batch_size, pin_memory=device.torch_device.type == "cuda")

    tasks = {
        "streamed": epoch_of(streamed),
        "on the device": epoch_of(on_device),
        "DataLoader": loaded_epoch(loader, device.torch_device),
    }
    samplers = {name: sampler(task, device.torch_device) for name, task in tasks.items()}
    seconds = interleaved(samplers, samples)
    streamed.close()
    count = streamed.steps_per_epoch * batch_size
    rows = [
        _row(f"{name}, images a second", [count / one for one in of_one])
        for name, of_one in seconds.items()
    ]
    pairs = zip(seconds["streamed"], seconds["DataLoader"], strict=True)
    factors = [theirs / ours for ours, theirs in pairs]
    return [*rows, _row("streamed, times as fast as a DataLoader", factors)]


def epoch_of(batches: Batches) -> Task:
    """The next epoch of them, each time."""
    taken = itertools.count()

    def run() -> None:
        for _ in range(batches.steps_per_epoch):
            batches.batch(next(taken))

    return Task(run)


def loaded_epoch(loader: DataLoader[tuple[Tensor, int]], device: torch.device) -> Task:
    """An epoch of the usual data path, brought to the device."""

    def run() -> None:
        for x, y in loader:
            x.to(device, non_blocking=True)
            y.to(device, non_blocking=True)

    return Task(run)


def _loader(
    folder: Path, side: int, batch_size: int, pin_memory: bool
) -> DataLoader[tuple[Tensor, int]]:
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(side, scale=(_LEAST, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=[127.5 / 255] * 3, std=[128 / 255] * 3),
        ]
    )
    return DataLoader(
        datasets.ImageFolder(str(folder / "train"), transform),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=_WORKERS,
        persistent_workers=True,
        pin_memory=pin_memory,
    )


def _memory(folder: Path, count: int, side: int, samples: int) -> list[Row]:
    """Of so many pictures, and of ten times as many."""
    one = next((folder / "train" / "a").iterdir())

    def mebibytes(count: int) -> float:
        arguments = [str(one), str(count), str(side)]
        command = [sys.executable, "-m", __name__, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout) / 2**20

    return [
        _row(f"peak memory of {n:,} images, MiB", [mebibytes(n) for _ in range(min(samples, 3))])
        for n in (count, 10 * count)
    ]


def _row(measure: str, samples: list[float]) -> Row:
    return {"measure": f"folder: {measure}", "value": Summary.of(samples)}


def _main(picture: str, count: int, side: int) -> None:
    """The new process: print the bytes that decoding and streaming so many pictures takes."""
    with tempfile.TemporaryDirectory(dir=Path(picture).parents[2]) as name:
        for half in ("train", "test"):
            place = Path(name) / half / "a"
            place.mkdir(parents=True)
            for number in range(count // 2):
                os.link(picture, place / f"{number}.jpg")
        before = held(_CPU)
        images = ImageFolder(name, size=side, channels=3, cache_dir=name).load()
        batches = Batches(images.train_images, images.train_labels, 4, 0, streamed=True)
        for step in range(batches.steps_per_epoch):
            batches.batch(step)
        batches.close()
        for piece in pieces(images.test_images, 4):
            piece.float()
        print(peak(_CPU) - before)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
