"""Test a trained network on the test samples of any dataset that fits it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from opt_runner.config.choices import DatasetChoice
from opt_runner.config.schema import Config
from opt_runner.datasets import Data, Interface, Measure, Samples, loaded
from opt_runner.errors import UserError, listed
from opt_runner.files import write_whole
from opt_runner.records import weights
from opt_runner.run.build import dataset_of, form_of
from opt_runner.run.device import Device
from opt_runner.run.evaluate import Diverged, numbers
from opt_runner.trained.network import Trained


@dataclass(frozen=True)
class Evaluation:
    """The result of a test.

    signature: the run's. dataset, data: the name and the fingerprint of the test samples.
    numbers: the error, as `measure` says, and others. classes: the network's; there may be none.
    confusion: numbers of samples, [true class][predicted class].
    by_position: the dataset has other names of classes, and they were matched by position.
    """

    signature: str
    dataset: str
    data: str
    samples: int
    measure: Measure
    numbers: dict[str, float]
    classes: list[str]
    confusion: list[list[int]]
    by_position: bool

    @property
    def mistaken(self) -> list[tuple[int, str, str]]:
        """Return (samples, true class, predicted class) of confusions, the most frequent first."""
        found = [
            (count, self.classes[true], self.classes[predicted])
            for true, row in enumerate(self.confusion)
            for predicted, count in enumerate(row)
            if count and true != predicted
        ]
        return sorted(found, key=lambda one: -one[0])

    def write(self, path: Path) -> None:
        """Write the evaluation as JSON. Raises CannotWrite."""
        content = asdict(self)
        content |= {f"test_{key}": value for key, value in content.pop("numbers").items()}
        write_whole(path, json.dumps(content, indent=2) + "\n")


@torch.no_grad()
def evaluate(trained: Trained, config: Config) -> Evaluation:
    """Test the network on the test samples of the config's dataset, on its hardware.

    Raises UserError if the data is missing or does not fit the network, if the network's outputs
    are not finite, or if the dataset is the record's own code and not trusted.
    """
    if config.dataset.target == trained.config.dataset.target:
        trained.trust.check(config.dataset, "dataset")
    dataset = dataset_of(config.dataset)
    dataset.check()
    data = loaded(dataset)
    data = data.formed(form_of(_formed_as(trained.config.dataset, config.dataset), config.model))
    test, by_position = _fitted(data, trained.interface)
    device = Device.of(config.hardware)
    network = device.place(trained.network)
    test = replace(test, targets=test.targets.to(device.torch_device))
    classes = trained.interface.classes if len(data.output_shape) == 1 else []
    size = len(classes)
    confusion = torch.zeros(size, size, dtype=torch.int64, device=device.torch_device)

    def count(found: Tensor, truth: Tensor) -> None:
        if size:
            one = torch.ones_like(truth)
            confusion.index_put_((truth, found.argmax(-1)), one, accumulate=True)

    try:
        measured = numbers(network, data, test, device, see=count)
    except Diverged as error:
        raise UserError(f"{trained.record.directory}: {error}") from error
    return Evaluation(
        signature=trained.record.directory.name.rpartition("-")[2],
        dataset=config.dataset.name,
        data=dataset.fingerprint(),
        samples=len(test),
        measure=data.measure,
        numbers=measured,
        classes=classes,
        confusion=confusion.tolist(),
        by_position=by_position,
    )


def _formed_as(trained: DatasetChoice, other: DatasetChoice) -> DatasetChoice:
    """Return the dataset with the form of images in training, unless it has its own."""
    form = {"size", "channels", "mean", "std"}
    return trained.model_copy(update=other.model_dump(include=form, exclude_none=True))


def _fitted(data: Data, takes: Interface) -> tuple[Samples, bool]:
    """Return (the test samples with targets as the network has them, True if by position).

    Classes are matched by name if the network knows all names, else by position; characters of a
    text by name only.
    Raises UserError if the data do not fit the network.
    """
    found = data.interface
    own, needed = (found.samples, *found.shape), (takes.samples, *takes.shape)
    if own != needed:
        raise UserError(
            f"dataset: it has {found.samples} {found.shape}, and the network takes "
            f"{takes.samples} {takes.shape}"
        )
    if data.class_names == takes.classes and weights.text(found) == weights.text(takes):
        return data.test, False
    if not takes.classes or not data.class_names or _kept(found) != _kept(takes):
        raise UserError(
            f"dataset: its {found.samples} are not those that the network was trained for"
        )
    if set(data.class_names) <= set(takes.classes):
        places = torch.tensor([takes.classes.index(name) for name in data.class_names])
        return data.renumbered(places), False
    if len(data.class_names) != len(takes.classes) or len(data.output_shape) > 1:
        raise UserError(
            f"dataset: its {len(data.class_names)} classes are not the network's "
            f"{len(takes.classes)}: {_some(data.class_names)} against {_some(takes.classes)}"
        )
    return data.test, True


def _kept(takes: Interface) -> str:
    """Return in words what a network keeps of the data, such as a graph; mostly nothing."""
    kept = {key: value for key, value in takes.gives.items() if isinstance(value, dict | Tensor)}
    return weights.text(replace(takes, gives=kept, below=None, classes=[]))


def _some(names: Sequence[str]) -> str:
    """Return some names in one line, also if they are a text's characters."""
    return listed([name if name.isprintable() else repr(name)[1:-1] for name in names], 3)
