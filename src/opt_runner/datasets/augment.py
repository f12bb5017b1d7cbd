"""Augmentation of training images: a random crop, padded or resized, and a random flip."""

from dataclasses import dataclass

import torch
from torch import Tensor

from opt_runner.datasets.augmentation import Augmentation
from opt_runner.datasets.crops import draw_boxes, padded_crop, resized_crop
from opt_runner.errors import UserError


@dataclass(frozen=True)
class Augment:
    """Options of the augmentation.

    pad: pixels by which a crop may be off centre. flip: mirror half of the images, left to right.
    resized_crop: crop at least this share of the image's area and resize it to the image's size;
    None: the padded crop. then: a further augmentation.
    """

    pad: int = 4
    flip: bool = True
    resized_crop: float | None = None
    then: Augmentation | None = None

    def draw(
        self, count: int, size: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw crops of `count` images of `size` (H, W), and flips, bool (count,), on the CPU.

        Padded crops are rows and columns, int64 (count,) in 0..2 pad. Resized crops are first
        pixels and lengths, int64 (count, 2), down and across. The tensors of `then` come last.
        """
        if self.resized_crop is None:
            first, second = torch.randint(2 * self.pad + 1, (2, count), generator=generator)
        else:
            first, second = draw_boxes(count, size, self.resized_crop, generator)
        flips = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        more = self.then.draw(count, size, generator) if self.then else ()
        return first, second, flips, *more

    def apply(
        self, images: Tensor, first: Tensor, second: Tensor, flips: Tensor, *more: Tensor
    ) -> Tensor:
        """Return the images (B, C, H, W), changed as drawn; all tensors are on one device."""
        if self.resized_crop is None:
            images = padded_crop(images, first, second, flips, self.pad)
        else:
            images = resized_crop(images, first, second, flips)
            if self.then is not None:
                images = images.round().to(torch.uint8)
        return self.then.apply(images, *more) if self.then else images

    def check(self, size: tuple[int, int]) -> None:
        """Raise UserError if images of `size` (H, W) are too small for the padding."""
        if self.resized_crop is None and not 0 <= self.pad <= min(size):
            raise UserError(
                f"pad={self.pad} does not suit images of {size[0]} x {size[1]}: "
                f"one reflection reaches 0 to {min(size)} pixels"
            )
