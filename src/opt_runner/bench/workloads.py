"""The networks that are trained in the benchmark, on random images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from opt_runner.datasets import Augment, Batches
from opt_runner.hardware import Hardware
from opt_runner.networks import MLP, PlainCNN


@dataclass(frozen=True)
class Workload:
    """A network, the images it is trained on and how they are augmented."""

    name: str
    network: Callable[[int, tuple[int, int], int], nn.Module]  # channels, (height, width), classes
    channels: int
    side: int
    images: int
    augment: Augment
    classes: int = 10
    batch_size: int = 128

    def build(self) -> nn.Module:
        """The network, the same at every call."""
        torch.manual_seed(0)
        return self.network(self.channels, (self.side, self.side), self.classes)

    def store(self, images: int | None = None) -> tuple[Tensor, Tensor]:
        """Random images, uint8 (N, C, H, W), and labels (N,), on the CPU. N: `images`, or all."""
        generator = torch.Generator().manual_seed(0)
        count = images or self.images
        shape = (count, self.channels, self.side, self.side)
        pictures = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        return pictures, torch.randint(self.classes, (count,), generator=generator)

    def batches(self, store: tuple[Tensor, Tensor], hardware: Hardware) -> Batches:
        images, labels = (tensor.to(hardware.device) for tensor in store)
        return Batches(images, labels, self.batch_size, 0, self.augment, hardware.memory_format)


_CIFAR = Augment(pad=4, flip=True)
_DIGITS = Augment(pad=1, flip=False)

_ALL = (
    Workload("cnn9", partial(PlainCNN, convs=3), 3, 32, 50_000, _CIFAR),
    Workload(
        "cnn6_narrow", partial(PlainCNN, widths=(32, 32, 32), fc_width=32), 1, 8, 1_442, _DIGITS
    ),
    Workload("mlp", MLP, 1, 8, 1_442, _DIGITS),
    # For `--quick`.
    Workload(
        "cnn9_tiny",
        partial(PlainCNN, widths=(8, 8, 8), convs=3, fc_width=8),
        3, 16, 64, _CIFAR, batch_size=16,
    ),
)  # fmt: skip

WORKLOADS = {workload.name: workload for workload in _ALL}
