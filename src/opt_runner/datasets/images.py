"""Labelled images, the task of the paper."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from opt_runner.datasets.form import Form
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
    form: of the network's input.
    """

    form: Form = field(default_factory=Form)

    samples: ClassVar[str] = "images"

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
        """Return the number of channels that the network takes."""
        return self._shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) of the images that the network takes."""
        return self._shape[1:]

    @property
    def _shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.inputs.shape[1:]
        return self.form.shape(channels, height, width)

    @property
    def scale(self) -> str:
        return str(self.form)

    @property
    def gives(self) -> dict[str, Any]:
        return {"in_channels": self.channels, "image_size": self.size, **super().gives}

    @property
    def evaluated_at_once(self) -> int:
        pixels = self.size[0] * self.size[1]
        return max(1, min(_MOST_IMAGES, _MOST_PIXELS // pixels))

    def network_input(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the images in their form, by default (x - 127.5) / 128 of pixels x."""
        return self.form.apply(inputs, dtype)

    def formed(self, form: Form) -> Self:
        form.check(self.train.inputs.shape[1])
        return replace(self, form=form)
