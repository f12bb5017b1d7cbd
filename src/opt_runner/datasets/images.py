"""The content of a dataset: labelled images to train on and to test on."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from opt_runner.datasets.stored import Stored
from opt_runner.errors import UserError

_LEAST_CLASSES = 2


@dataclass(frozen=True, eq=False)
class Images:
    """Training and test images with their labels.

    train_images: uint8 (N, C, H, W), in memory or `Stored`; train_labels: int64 (N,), indices into
    `classes`. test_images, test_labels: the same, with as many channels and the same size.
    Raises UserError if types, shapes or labels do not fit together.
    """

    train_images: Tensor | Stored
    train_labels: Tensor
    test_images: Tensor | Stored
    test_labels: Tensor
    classes: list[str]

    def __post_init__(self) -> None:
        if self.num_classes < _LEAST_CLASSES:
            raise UserError(f"{self.num_classes} classes are nothing to learn: two are the least")
        _check_half("training", self.train_images, self.train_labels, self.num_classes)
        _check_half("test", self.test_images, self.test_labels, self.num_classes)
        train, test = tuple(self.train_images.shape[1:]), tuple(self.test_images.shape[1:])
        if train != test:
            raise UserError(
                f"training images are {train} and test images {test} (channels, height, width): "
                "they must agree"
            )

    @property
    def channels(self) -> int:
        return self.train_images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width)."""
        return self.train_images.shape[2], self.train_images.shape[3]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device | str, streamed: bool = False) -> Self:
        """Return the same on `device`; streamed: images stay where they are."""
        labels = replace(
            self,
            train_labels=self.train_labels.to(device),
            test_labels=self.test_labels.to(device),
        )
        if streamed:
            return labels
        return replace(
            labels,
            train_images=self.train_images.to(device),
            test_images=self.test_images.to(device),
        )


def _check_half(half: str, images: Tensor | Stored, labels: Tensor, num_classes: int) -> None:
    if images.dtype != torch.uint8 or len(images.shape) != 4:
        raise UserError(
            f"{half} images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}"
        )
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise UserError(
            f"{half} labels must be int64 (N,), got {labels.dtype} {tuple(labels.shape)}"
        )
    if len(images) != len(labels):
        raise UserError(
            f"{len(images)} {half} images have {len(labels)} labels: one each is needed"
        )
    if 0 in images.shape:
        raise UserError(f"the {half} set is empty, got images {tuple(images.shape)}")
    outside = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(outside):
        first = int(outside[0])
        raise UserError(
            f"{half} label {int(labels[first])} at index {first} is out of range: "
            f"{num_classes} classes allow 0 to {num_classes - 1}"
        )
