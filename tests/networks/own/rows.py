"""Networks for sequences: an image is the sequence of its rows."""

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """A transformer encoder, with learned positions; the class is read from the rows' mean.

    Input (batch, in_channels, height, width); output (batch, num_classes).
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        height, columns = image_size
        self.embedding = nn.Linear(in_channels * columns, width)
        self.position = nn.Parameter(torch.zeros(1, height, width))
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(_rows(x)) + self.position).mean(1))


class LSTM(nn.Module):
    """Two layers that read the rows downwards; the class is read from the last state.

    Input (batch, in_channels, height, width); output (batch, num_classes).
    """

    def __init__(
        self, in_channels: int, image_size: tuple[int, int], num_classes: int, width: int = 24
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(in_channels * image_size[1], width, 2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(_rows(x))[0][:, -1])


def _rows(x: Tensor) -> Tensor:
    """(batch, height, in_channels width)"""
    return x.transpose(1, 2).flatten(2)
