"""Labelled images, the task of the paper."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from opt_runner.datasets.labelled import Labelled
from opt_runner.errors import UserError

# The images of a batch of an evaluation, and the pixels, as of 1,000 images of 64 x 64; the lower
# limit counts.
_MOST_IMAGES = 1000
_MOST_PIXELS = _MOST_IMAGES * 64 * 64


@dataclass(frozen=True, eq=False)
class Images(Labelled):
    """Training and test images with their labels.

    train, test: inputs are images, uint8 (N, C, H, W), in memory or `Stored`, all of one size;
    targets are labels, int64 (N,), indices into `classes`.
    Raises UserError if types, shapes or labels do not fit together.
    """

    samples: ClassVar[str] = "images"
    scale: ClassVar[str] = "pixels x of 0 to 255 as (x - 127.5) / 128"

    def __post_init__(self) -> None:
        for half, samples in (("training", self.train), ("test", self.test)):
            images = samples.inputs
            if images.dtype != torch.uint8 or len(images.shape) != 4:
                raise UserError(
                    f"{half} images must be uint8 (N, C, H, W), got {images.dtype} "
                    f"{tuple(images.shape)}"
                )
        super().__post_init__()

    @property
    def channels(self) -> int:
        return self.train.inputs.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width)."""
        return self.train.inputs.shape[2], self.train.inputs.shape[3]

    @property
    def gives(self) -> dict[str, Any]:
        return {"in_channels": self.channels, "image_size": self.size, **super().gives}

    @property
    def evaluated_at_once(self) -> int:
        pixels = self.size[0] * self.size[1]
        return max(1, min(_MOST_IMAGES, _MOST_PIXELS // pixels))

    def network_input(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Return (x - 127.5) / 128 of images x, in the same memory format."""
        return normalise(inputs, dtype)


def normalise(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return (x - 127.5) / 128 in `dtype`, of any shape and in the same memory format."""
    return (images.to(dtype) - 127.5) / 128
