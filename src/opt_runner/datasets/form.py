"""The form in which a network takes images: their size, channels and scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from opt_runner.errors import UserError

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow makes colour images grey


@dataclass(frozen=True)
class Form:
    """How images are changed on their way to a network, after the augmentation.

    Each batch is changed on the device that trains. So the stored images stay small: CIFAR-10 has
    184 MB, and would have 9 GB at 224 x 224.

    size: the short side, resized bilinearly, with antialiasing if it shrinks; None: the images'
        own. channels: 1 makes images grey, 3 repeats grey ones; None: the images' own. mean, std:
        pixels x become (x / 255 - mean) / std, with a number for each channel or one for all;
        None: (x - 127.5) / 128.
    """

    size: int | None = None
    channels: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def check(self, channels: int) -> None:
        """Raise UserError if images of so many channels cannot have this form."""
        if self.channels not in (None, channels) and {self.channels, channels} != {1, 3}:
            raise UserError(
                f"dataset.channels={self.channels}: the images have {channels} channels: only grey "
                "and colour images can be changed into each other"
            )
        taken = self.channels or channels
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in (1, taken):
                raise UserError(
                    f"dataset.{name} has {len(values)} values for {taken} channels: one for each "
                    "or one for all is needed"
                )

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape (C, H, W) that images of this shape get."""
        scale = (self.size or min(height, width)) / min(height, width)
        return self.channels or channels, round(height * scale), round(width * scale)

    def apply(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Return images of 0 to 255, (B, C, H, W), in this form."""
        channels, *size = self.shape(*images.shape[1:])
        x = images.to(dtype)
        if tuple(size) != tuple(images.shape[2:]):
            x = interpolate(x, size, mode="bilinear", antialias=True)
        if channels < x.shape[1]:
            x = (x * _of_channels(_LUMA, x)).sum(1, keepdim=True)
        x = x.expand(-1, channels, -1, -1)
        if self.mean is None or self.std is None:
            return normalise(x, dtype)
        return (x / 255 - _of_channels(self.mean, x)) / _of_channels(self.std, x)

    def __str__(self) -> str:
        if self.mean is None or self.std is None:
            return "pixels x of 0 to 255 as (x - 127.5) / 128"
        return f"pixels x of 0 to 255 as (x / 255 - {_listed(self.mean)}) / {_listed(self.std)}"


def _of_channels(values: Sequence[float], like: Tensor) -> Tensor:
    """Return a tensor (C, 1, 1), or (1, 1, 1), without a copy to the device, which would wait."""
    return torch.stack([like.new_full((1, 1), value) for value in values])


def _listed(values: Sequence[float]) -> str:
    listed = ", ".join(f"{value:g}" for value in values)
    return listed if len(values) == 1 else f"[{listed}]"


def normalise(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return (x - 127.5) / 128 in `dtype`, of any shape."""
    return (images.to(dtype) - 127.5) / 128
