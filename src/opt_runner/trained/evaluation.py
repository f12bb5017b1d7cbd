"""Test a trained network on the test images of any dataset that fits it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from opt_runner.config import components
from opt_runner.config.schema import Config
from opt_runner.datasets import Dataset, Images
from opt_runner.errors import UserError
from opt_runner.files import write_whole
from opt_runner.records.weights import Interface
from opt_runner.run.device import Device
from opt_runner.run.evaluate import Quality, Tally, outputs
from opt_runner.trained.network import Trained


@dataclass(frozen=True)
class Evaluation:
    """The result of a test.

    signature: the run's. dataset, data: the name and the fingerprint of the test images.
    classes: the network's. confusion: numbers of images, [true class][predicted class].
    by_position: the dataset has other names of classes, and they were matched by position.
    """

    signature: str
    dataset: str
    data: str
    images: int
    quality: Quality
    classes: list[str]
    confusion: list[list[int]]
    by_position: bool

    @property
    def mistaken(self) -> list[tuple[int, str, str]]:
        """Return (images, true class, predicted class) of confusions, the most frequent first."""
        found = [
            (count, self.classes[true], self.classes[predicted])
            for true, row in enumerate(self.confusion)
            for predicted, count in enumerate(row)
            if count and true != predicted
        ]
        return sorted(found, key=lambda one: -one[0])

    def write(self, path: Path) -> None:
        """Write the evaluation as JSON, errors in percent. Raises CannotWrite."""
        content = asdict(self)
        content |= {f"test_{key}": value for key, value in content.pop("quality").items()}
        write_whole(path, json.dumps(content, indent=2) + "\n")


@torch.no_grad()
def evaluate(trained: Trained, config: Config) -> Evaluation:
    """Test the network on the test images of the config's dataset, on its hardware.

    Raises UserError if the data is missing or does not fit the network, or if the dataset is the
    record's own code and not trusted.
    """
    if config.dataset.target == trained.config.dataset.target:
        trained.trust.check(config.dataset, "dataset")
    dataset = components.build(config.dataset, "dataset", Dataset)
    dataset.check()
    data = dataset.fingerprint()
    images = dataset.load()
    labels, by_position = _labels(images, trained.interface)
    device = Device.of(config.hardware)
    network = device.place(trained.network)
    size = trained.interface.num_classes
    confusion = torch.zeros(size, size, dtype=torch.int64, device=device.torch_device)
    tally = Tally(device.torch_device)
    for logits, truth in outputs(
        network, images.test_images, labels.to(device.torch_device), device
    ):
        tally.add(logits, truth)
        one = torch.ones_like(truth)
        confusion.index_put_((truth, logits.argmax(-1)), one, accumulate=True)
    return Evaluation(
        signature=trained.record.directory.name.rpartition("-")[2],
        dataset=config.dataset.name,
        data=data,
        images=len(labels),
        quality=tally.quality(len(labels)),
        classes=trained.interface.classes,
        confusion=confusion.tolist(),
        by_position=by_position,
    )


def _labels(images: Images, takes: Interface) -> tuple[Tensor, bool]:
    """Return (the test labels as the network numbers its classes, True if matched by position).

    Classes are matched by name if the network knows all names, else by position.
    Raises UserError if the images do not fit the network.
    """
    own, needed = (images.channels, *images.size), (takes.channels, *takes.size)
    if own != needed:
        raise UserError(
            f"dataset: its images are {own} (channels, height, width), the network takes {needed}"
        )
    if images.classes == takes.classes:
        return images.test_labels, False
    if set(images.classes) <= set(takes.classes):
        numbers = torch.tensor([takes.classes.index(name) for name in images.classes])
        return numbers[images.test_labels], False
    if images.num_classes != takes.num_classes:
        raise UserError(
            f"dataset: its {images.num_classes} classes are not the network's "
            f"{takes.num_classes}: {_some(images.classes)} against {_some(takes.classes)}"
        )
    return images.test_labels, True


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
