"""Small networks such as people bring: name -> a maker, an input, options of OPT."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class TransformerEncoder(nn.Module):
    """Attention with packed projections."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 5, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x + self.position).mean(1))


class CrossAttention(nn.Module):
    """Attention with separate projections."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=6, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x[..., :4], x[..., :6])[0].mean(1))


class UNet(nn.Module):
    """A decoder of transposed convolutions, with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.up = nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1, groups=2)
        self.head = nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(torch.relu(self.depthwise(torch.relu(self.down(x)))))
        return self.head(torch.cat([x, up], 1))


class Recurrent(nn.Module):
    """An LSTM on embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.lstm(self.embedding(x))[0][:, -1])))


_SEQUENCE = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, Any]]] = {
    "transformer": (TransformerEncoder, _SEQUENCE, {}),
    "cross attention": (CrossAttention, _SEQUENCE, {}),
    "unet": (UNet, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), {}),
    "lstm": (
        Recurrent,
        torch.arange(15).remainder(11).view(3, 5),
        {"include": ["embedding", "lstm", "hidden"]},
    ),
}
