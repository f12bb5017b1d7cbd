"""What no library has: an MLP-mixer whose only block is applied again and again."""

import torch
from torch import Tensor, nn


class Mixer(nn.Module):
    """Patches of 4 x 4 pixels are mixed `depth` times by the same block, with weights of its own
    that are no layer: a gain for each time.

    Input (batch, in_channels, side, side), side a multiple of 4; output (batch, num_classes).
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        width: int = 24,
        depth: int = 3,
    ) -> None:
        super().__init__()
        patches = image_size[0] * image_size[1] // 16
        self.patch = nn.Conv2d(in_channels, width, 4, stride=4)
        self.norm = nn.LayerNorm(width)
        self.places = nn.Conv1d(patches, patches, 1)
        self.channels = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.gains = nn.Parameter(torch.ones(depth, 2, width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        for of_places, of_channels in self.gains:
            x = x + of_places * self.places(self.norm(x))
            x = x + of_channels * self.channels(self.norm(x))
        return self.head(self.norm(x).mean(1))
