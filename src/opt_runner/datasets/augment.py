"""The reference's augmentation: pad by symmetric reflection, crop at random, flip at random.

No padded image is ever made. Row i of a crop that starts at row r of the padded image is row
x = i + r - pad of the image itself, reflected back into it at its edges, and a flip counts the
columns backwards. So the whole batch is one gather by computed pixel indices.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.datasets.augmentation import Augmentation
from opt_runner.errors import UserError


@dataclass(frozen=True)
class Augment:
    """Options of the augmentation.

    enabled: augment at all. pad: pixels by which a crop may be off centre. flip: mirror half of
    the images, left to right. then: what changes the images after that.
    """

    enabled: bool = True
    pad: Annotated[int, Field(ge=0)] = 4
    flip: bool = True
    then: Augmentation | None = None

    def draw(
        self, count: int, size: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Crop rows and columns, int64 in 0..2 pad, and flips, bool: (count,) each, on the CPU.

        After them what `then` draws for images of `size` (H, W).
        """
        rows, columns = torch.randint(2 * self.pad + 1, (2, count), generator=generator)
        flips = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        more = self.then.draw(count, size, generator) if self.then else ()
        return rows, columns, flips, *more

    def take(self, store: Tensor, index: Tensor, *drawn: Tensor) -> Tensor:
        """Augmented images `index` of a store, see `gather`; drawn: what was drawn for them."""
        rows, columns, flips, *more = drawn
        images = gather(store, index, rows, columns, flips, self.pad)
        return self.then.apply(images, *more) if self.then else images

    def check(self, size: tuple[int, int]) -> None:
        """Raise UserError where images of `size` (H, W) are too small for the padding."""
        if not 0 <= self.pad <= min(size):
            raise UserError(
                f"pad={self.pad} does not suit images of {size[0]} x {size[1]}: "
                f"one reflection reaches 0 to {min(size)} pixels"
            )


def gather(
    store: Tensor, index: Tensor, rows: Tensor, columns: Tensor, flips: Tensor, pad: int
) -> Tensor:
    """Augmented images `index` of a store, (B, C, H, W), of the store's type.

    store (N, C, H, W); index (B,) int64; rows, columns (B,) int64 in 0..2 pad, the corner of the
    crop in the padded image; flips (B,) bool; pad at most H and W. All on one device, which is
    never waited for: so values out of range are not looked for.
    """
    _, channels, height, width = store.shape
    i = torch.arange(height, device=store.device)
    j = torch.arange(width, device=store.device)
    row = _reflect(i + rows[:, None] - pad, height)
    column = _reflect(torch.where(flips[:, None], width - 1 - j, j) + columns[:, None] - pad, width)
    pixel = (row[:, :, None] * width + column[:, None, :]).flatten(1)[:, None]
    # Faster on a CPU than indexing the store with all four coordinates: a batch stays in cache.
    images = store[index].flatten(2)
    crops = images.gather(2, pixel.expand(-1, channels, -1))
    return crops.view(-1, channels, height, width)


def _reflect(x: Tensor, side: int) -> Tensor:
    """x in -side..2 side - 1 reflected into 0..side - 1, the edge pixel repeated."""
    x = torch.maximum(x, -1 - x)
    return torch.minimum(x, 2 * side - 1 - x)
