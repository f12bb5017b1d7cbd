"""Trainings to measure: networks on random images, built as opt-run builds them."""

from dataclasses import dataclass

import torch

from opt_runner.config import compose
from opt_runner.config.schema import Config
from opt_runner.datasets import Images, Samples
from opt_runner.run.set_up import set_up
from opt_runner.run.step import TrainingStep

# The paper's recipe and budget: the schedule does not end within a benchmark.
_RECIPE = ("dataset=cifar10", "budget.steps=75000")
_AS_DIGITS = ("augment.pad=1", "augment.flip=false")
_LARGE = ("batch_size=8", "optimizer.lr=0.001")


@dataclass(frozen=True)
class Workload:
    """A network, as arguments of opt-run, and `count` images (channels, side, side)."""

    network: tuple[str, ...]
    channels: int
    side: int
    count: int

    def images(self, count: int | None = None) -> Images:
        """Return random images on the CPU, equal at every call. Two serve as test images."""
        generator = torch.Generator().manual_seed(0)
        shape = (count or self.count, self.channels, self.side, self.side)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        labels = torch.randint(10, shape[:1], generator=generator)
        train = Samples(images, labels)
        return Images(train, train[:2], list("0123456789"))

    def images_for(self, *arguments: str) -> Images:
        """Return a batch of images at least, for a training with these arguments of opt-run."""
        return self.images(max(self.count, self.config(*arguments).batch_size or 0))

    def config(self, *arguments: str) -> Config:
        """Return the config of arguments of opt-run, the method and the hardware among them."""
        return compose.from_arguments(*_RECIPE, *self.network, *arguments)

    def step(self, images: Images, *arguments: str) -> TrainingStep:
        """Return a training step of a new training with these arguments of opt-run."""
        return TrainingStep(set_up(self.config(*arguments), images))


WORKLOADS = {
    "cnn9": Workload(("model=cnn9",), 3, 32, 50_000),
    "cnn6": Workload(("model=cnn6",), 3, 32, 50_000),
    "cnn6_narrow": Workload(("model=cnn6_narrow", *_AS_DIGITS), 1, 8, 1_442),
    "mlp": Workload(("model=mlp", *_AS_DIGITS), 1, 8, 1_442),
    "resnet18": Workload(("model=resnet18", *_LARGE), 3, 32, 64),
    "wide_resnet": Workload(("model=wide_resnet", *_LARGE), 3, 32, 64),
    "convnext_tiny": Workload(
        ("model=torchvision", "model.arch=convnext_tiny", *_LARGE), 3, 32, 64
    ),
    "vit_tiny": Workload(("model=vit_tiny", *_LARGE), 3, 32, 64),
    # for --quick
    "cnn9_tiny": Workload(
        ("model=cnn9", "model.widths=[8,8,8]", "model.fc_width=8", "batch_size=16"), 3, 16, 64
    ),
}
