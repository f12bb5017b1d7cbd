"""A U-Net that says of every pixel what it belongs to; the image's class is their mean."""

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """Two steps down, two up by transposed convolutions, and what was cut off joined again.

    Input (batch, in_channels, side, side), side a multiple of 4; output (batch, num_classes).
    """

    def __init__(self, in_channels: int, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.stem = _block(nn.Conv2d(in_channels, width, 3, padding=1), width)
        self.down = nn.ModuleList(
            [
                _block(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), 2 * width),
                _block(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1), 4 * width),
            ]
        )
        self.up = nn.ModuleList(
            [
                nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1, groups=2),
                nn.ConvTranspose2d(4 * width, width, 2, stride=2),
            ]
        )
        self.pixels = nn.Conv2d(2 * width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        middle = self.down[0](fine)
        up = self.up[0](self.down[1](middle)).relu()
        up = self.up[1](torch.cat([up, middle], 1)).relu()
        return self.pixels(torch.cat([up, fine], 1)).mean((2, 3))


def _block(convolution: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())
