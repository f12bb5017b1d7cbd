"""Random resized crop: for each image a box of random area, shape and place, enlarged.

As the augmentation of large images has been since Szegedy et al., "Going Deeper with Convolutions"
(CVPR 2015); the distribution of the boxes is that of torchvision's RandomResizedCrop. A box is
never larger than its image: it is only ever enlarged, where bilinear interpolation is the same with
antialiasing and without, and the whole batch is one `grid_sample`.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

RATIOS = (3 / 4, 4 / 3)  # width by height
_TRIES = 10


def draw_boxes(
    count: int, size: tuple[int, int], least: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw `count` boxes in images of `size` (H, W).

    Returns first pixel and length, int64 (count, 2), down and across.

    The share of the area is uniform in [least, 1], the logarithm of the ratio in that of RATIOS.
    A box that does not fit is drawn again, ten times at most; then the box is the whole image.
    """
    whole = torch.tensor(size)
    # float64, so that no rounding of a library's exp decides about a pixel.
    area, shape = torch.rand(2, _TRIES, count, dtype=torch.float64, generator=generator)
    area = (least + (1 - least) * area) * whole.prod()
    low, high = map(math.log, RATIOS)
    ratio = (low + (high - low) * shape).exp()
    tried = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=-1).round().long()
    fits = ((tried >= 1) & (tried <= whole)).all(-1)
    lengths = tried[fits.int().argmax(0), torch.arange(count)]
    lengths = torch.where(fits.any(0)[:, None], lengths, whole)
    places = torch.rand(count, 2, dtype=torch.float64, generator=generator)
    return (places * (whole - lengths + 1)).long(), lengths


def resized_crop(images: Tensor, first: Tensor, lengths: Tensor, flips: Tensor) -> Tensor:
    """Return boxes of uint8 images (B, C, H, W), resized to (H, W), float32, not rounded.

    first, lengths (B, 2) int64, as `draw_boxes` gives them; flips (B,) bool. Equal to cutting the
    box out, resizing it (bilinear, half-pixel centres, its own edges repeated) and mirroring it.
    """
    size = images.shape[2:]
    y, x = (_positions(first[:, k], lengths[:, k], size[k]) for k in (0, 1))
    x = torch.where(flips[:, None], x.flip(1), x)
    shape = (len(images), *size)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)
    return grid_sample(images.float(), grid, mode="bilinear", align_corners=False)


def _positions(first: Tensor, length: Tensor, side: int) -> Tensor:
    """Return the positions in the image of `side` pixels, (B, side); edges are -1 and 1."""
    first, length = first[:, None], length[:, None]
    pixel = first + (torch.arange(side, device=first.device) + 0.5) * length / side - 0.5
    inside = torch.minimum(torch.maximum(pixel, first), first + length - 1)
    return (2 * inside + 1) / side - 1
