"""The reference's augmentation: symmetric padding, random crop, random flip.

No padded image is ever made. Row i of a crop that starts at row r of the padded image is row
x = i + r - pad of the image itself, reflected back into it at its edges, and a flip counts the
columns backwards. So the whole batch is one gather by computed pixel indices.
"""

import torch
from torch import Tensor


def padded_crop(images: Tensor, rows: Tensor, columns: Tensor, flips: Tensor, pad: int) -> Tensor:
    """Return crops of images (B, C, H, W), with the same size and type.

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
