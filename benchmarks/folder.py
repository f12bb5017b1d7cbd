"""A folder of pictures: batches streamed from our cache, against torchvision's way."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from operator import truediv
from pathlib import Path

import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import v2

from benchmarks.datapath import epoch_of, loaded_epoch
from benchmarks.memory import held, peak
from benchmarks.report import Report, Row, Settings, say, table
from benchmarks.samples import Summary, interleaved, sampler
from opt_runner.datasets import Augment, Batches, ImageFolder, pieces

_LEAST = 0.08  # of a picture's area in a crop
_CPU = torch.device("cpu")


def run(settings: Settings) -> Report:
    """Draw a folder of pictures and measure it."""
    count, side, batch_size = (64, 32, 16) if settings.quick else (2_000, 224, 128)
    report = Report(n=settings.count(5))
    say(f"folder: {count:,} pictures of {side} x {side}, n = {report.n}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _draw_pictures(folder, count, side)
        report.rows = [
            _decoded_once(folder, count, report.n),
            *_epochs(folder, side, batch_size, report.n, settings),
            _memory(folder, count // 4, side, min(report.n, 3)),
            _memory(folder, count // 4 * 10, side, min(report.n, 3)),
        ]
    title = f"{count:,} JPEG files of {side} x {side}, batch {batch_size}, n = {report.n}"
    report.tables.append(table(title, {"measured": "measure", "value": "value"}, report.rows))
    report.notes += [
        "smooth random pictures, in the system's cache of files. Ours: decoded once, then "
        f"random resized crops ({_LEAST} of the area at least), flips and normalisation of whole "
        "batches on the device. The DataLoader: torchvision's ImageFolder, the same by "
        "transforms.v2, and decoding, picture by picture in two workers, started before. Samples "
        "are epochs, in turn",
        "memory: growth of a process to its largest resident size (VmHWM) while it "
        "decodes, streams an epoch of batches and then all test images",
    ]
    return report


def _draw_pictures(folder: Path, count: int, side: int) -> None:
    """Write train/a, train/b and the like: smooth, as photos are, so JPEG has its usual work."""
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
    device = settings.used.torch_device
    images = ImageFolder(str(folder), cache_dir=str(folder)).load()
    make = partial(
        Batches, targets=images.train.targets.to(device), batch_size=batch_size, seed=0,
        augment=Augment(resized_crop=_LEAST), memory_format=settings.used.memory_format,
    )  # fmt: skip
    streamed = make(images.train.inputs, streamed=True)
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(side, scale=(_LEAST, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=[127.5 / 255] * 3, std=[128 / 255] * 3),
        ]
    )
    pictures = datasets.ImageFolder(str(folder / "train"), transform)
    tasks = {
        "streamed": epoch_of(streamed),
        "on the device": epoch_of(make(images.train.inputs.to(device))),
        "DataLoader": loaded_epoch(pictures, batch_size, device),
    }
    seconds = interleaved({name: sampler(task, device) for name, task in tasks.items()}, samples)
    streamed.close()
    count = streamed.steps_per_epoch * batch_size
    rows = [
        _row(f"{name}, images a second", [count / one for one in of_one])
        for name, of_one in seconds.items()
    ]
    factors = map(truediv, seconds["DataLoader"], seconds["streamed"])
    return [*rows, _row("streamed, times as fast as a DataLoader", factors)]


def _memory(folder: Path, count: int, side: int, samples: int) -> Row:
    """Measure so many pictures, each sample in a new process."""
    picture = next((folder / "train" / "a").iterdir())
    command = [sys.executable, "-m", __name__, str(picture), str(count), str(side)]
    found = [
        subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout for _ in range(samples)
    ]
    return _row(f"peak memory of {count:,} images, MiB", [int(one) / 2**20 for one in found])


def _row(measure: str, samples: Iterable[float]) -> Row:
    return {"measure": measure, "value": Summary.of(samples)}


def _main(picture: str, count: int, side: int) -> None:
    """Print the bytes that decoding and streaming so many pictures takes."""
    with tempfile.TemporaryDirectory(dir=Path(picture).parents[2]) as name:
        for place in ("train/a", "train/b", "test/a", "test/b"):
            Path(name, place).mkdir(parents=True)
            for number in range(count // 4):
                os.link(picture, Path(name, place, f"{number}.jpg"))
        before = held(_CPU)
        images = ImageFolder(name, size=side, channels=3, cache_dir=name).load()
        batches = Batches(images.train.inputs, images.train.targets, 4, 0, streamed=True)
        for step in range(batches.steps_per_epoch):
            batches.batch(step)
        batches.close()
        for piece in pieces(images.test.inputs, 4):
            piece.float()
        print(peak(_CPU) - before)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
