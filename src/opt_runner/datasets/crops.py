"""Random crops with flips, of a whole batch at once: padded, or resized."""

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

RATIOS = (3 / 4, 4 / 3)  # width by height
_TRIES = 10


def padded_crop(images: Tensor, rows: Tensor, columns: Tensor, flips: Tensor, pad: int) -> Tensor:
    """Return crops of symmetrically padded images (B, C, H, W), with the same size and type.

    No padded image is ever made. Row i of a crop that starts at row r of the padded image is row
    x = i + r - pad of the image itself, reflected back into it at its edges, and a flip counts the
    columns backwards. So the whole batch is one gather by computed pixel indices.

    rows, columns (B,) int64 in 0..2 pad, the corner of the crop in the padded image; flips (B,)
    bool; pad at most H and W. All are on one device. Values out of range are not checked, because
    a check would wait for the GPU.
    """
    _, channels, height, width = images.shape
    i = torch.arange(height, device=images.device)
    j = torch.arange(width, device=images.device)
    row = _reflect(i + rows[:, None] - pad, height)
    column = _reflect(torch.where(flips[:, None], width - 1 - j, j) + columns[:, None] - pad, width)
    pixel = (row[:, :, None] * width + column[:, None, :]).flatten(1)[:, None]
    crops = images.flatten(2).gather(2, pixel.expand(-1, channels, -1))
    return crops.view(-1, channels, height, width)


def _reflect(x: Tensor, side: int) -> Tensor:
    """Return x in -side..2 side - 1 reflected into 0..side - 1, the edge pixel repeated."""
    x = torch.maximum(x, -1 - x)
    return torch.minimum(x, 2 * side - 1 - x)


def draw_boxes(
    count: int, size: tuple[int, int], least: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw `count` boxes in images of `size` (H, W): first pixel and length, int64 (count, 2).

    Both are down and across. The share of the area is uniform in [least, 1], the logarithm of the
    ratio in that of RATIOS. A box that does not fit is drawn again, ten times at most; then the
    box is the whole image.
    Source: Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015), with the distribution of
    torchvision's RandomResizedCrop.
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
    box out, resizing it (bilinear, half-pixel centres, its own edges repeated) and mirroring it. A
    box is only ever enlarged, where antialiasing changes nothing.
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
