"""The interface of an augmentation of your own. Its options are the signature of `__init__`."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from opt_runner.errors import UserError, in_words


@runtime_checkable
class Augmentation(Protocol):
    """A change of a batch of images after crop and flip.

    `draw` draws all random values of an epoch, from the generator only. So a resumed run sees the
    same images as an uninterrupted one.
    """

    def draw(
        self, count: int, size: tuple[int, int], generator: torch.Generator
    ) -> Sequence[Tensor]:
        """Draw the random numbers of an epoch's `count` images, on the CPU: tensors (count, ...).

        size: (H, W) of the images.
        """
        ...

    def apply(self, images: Tensor, *drawn: Tensor) -> Tensor:
        """Return a batch of images, augmented: uint8 (B, C, H, W), on the device that trains.

        drawn: the values of `draw` for these images, (B, ...) each, on the same device.
        """
        ...


def check_on(augmentation: Augmentation, images: Tensor, where: str) -> None:
    """Raise UserError if `draw` or `apply` returns wrong types or shapes for `images`.

    images: uint8 (B, C, H, W), a few. where: the node of the config, for the message.
    """
    name = type(augmentation).__name__
    size = images.shape[2], images.shape[3]
    try:
        drawn = augmentation.draw(len(images), size, torch.Generator().manual_seed(0))
    except Exception as error:
        raise UserError(f"{where}: {name}.draw fails: {in_words(error)}") from error
    if not isinstance(drawn, tuple | list):
        raise UserError(f"{where}: {name}.draw must return a tuple of tensors")
    for tensor in drawn:
        if not isinstance(tensor, Tensor) or tensor.device.type != "cpu" or tensor.dim() == 0:
            raise UserError(f"{where}: {name}.draw must return tensors (count, ...) on the CPU")
        if len(tensor) != len(images):
            raise UserError(
                f"{where}: {name}.draw returns a tensor of shape {tuple(tensor.shape)} for "
                f"{len(images)} images: its first size must be their number"
            )
    try:
        changed = augmentation.apply(images.clone(), *(one.to(images.device) for one in drawn))
    except Exception as error:
        raise UserError(f"{where}: {name}.apply fails: {in_words(error)}") from error
    if not isinstance(changed, Tensor):
        raise UserError(f"{where}: {name}.apply returns {changed!r}: it must return the images")
    if changed.dtype != images.dtype or changed.shape != images.shape:
        raise UserError(
            f"{where}: {name}.apply returns {changed.dtype} {tuple(changed.shape)} for images "
            f"{images.dtype} {tuple(images.shape)}: type and shape must stay"
        )
