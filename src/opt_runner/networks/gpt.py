"""Decoder-only transformers on tokens: GPT, and nGPT, whose vectors all have length 1."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opt_runner.errors import UserError
from opt_runner.networks.shared import Depth, Positive

_STD = 0.02  # of weights at the start, as GPT-2
_ALPHA = 0.05  # nGPT's step towards the output of a part of a block, at the start


class GPT(nn.Module):
    """A decoder-only transformer. Input: tokens (batch, T); output: logits (batch, T, vocabulary).

    norm: `pre`: x + f(LayerNorm(x)) with f = attention, then a GELU network of 4 times the width.
    `ngpt`: nGPT, where all rows of weights along the width, and x, have length 1, and
    x <- u(x + |a| (u(f(x)) - u(x))), u(v) = v / |v|, with trained a, with q, k, the inside of the
    gated network and the logits scaled by trained factors. Weights have length 1 at the start, and
    are made unit where they are used, so that any V of OPT is. The published code makes them unit
    after each step: the function is the same, but here lengths may grow, which shortens steps.
    tied: the head is the embedding. q, k and v are layers of their own, and have no biases.

    Positions are rotations of q and k. Sources: Radford et al., "Language Models are Unsupervised
    Multitask Learners" (2019); Su et al., "RoFormer" (2021); Loshchilov et al., "nGPT" (2024), and
    NVIDIA/ngpt@ed19eb2.
    Raises UserError for a width that the heads cannot share.
    """

    rotation: Tensor

    def __init__(
        self,
        vocabulary: int,
        context: int,
        width: Positive = 384,
        depth: Depth = 6,
        heads: Positive = 6,
        norm: Literal["pre", "ngpt"] = "pre",
        tied: bool = False,
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise UserError(
                f"model.width={width} must be a multiple of twice model.heads={heads}: each head "
                "has an even size"
            )
        self.embedding = nn.Embedding(vocabulary, width)
        self.ngpt = norm == "ngpt"
        kind = UnitBlock if self.ngpt else Block
        self.blocks = nn.ModuleList(kind(width, heads) for _ in range(depth))
        self.norm = nn.Identity() if self.ngpt else nn.LayerNorm(width, bias=False)
        self.head = (UnitLinear if self.ngpt else nn.Linear)(width, vocabulary, bias=False)
        if self.ngpt:
            self.scale = Scale(vocabulary, 1.0, width)
        rotation = _rotation(context, width // heads)
        self.register_buffer("rotation", rotation, persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                std = _STD / (2 * depth) ** 0.5 if ".out." in name or ".down." in name else _STD
                nn.init.normal_(parameter, std=std)
        if self.ngpt:
            self._make_unit()
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        rotation = self.rotation[:, : tokens.shape[1]]
        x = self.embedding(tokens)
        if self.ngpt:
            x = unit(x)
        for block in self.blocks:
            x = block(x, rotation)
        logits = self.head(self.norm(x))
        return self.scale() * logits if self.ngpt else logits

    @torch.no_grad()
    def _make_unit(self) -> None:
        self.embedding.weight.copy_(unit(self.embedding.weight))
        for layer in self.modules():
            if isinstance(layer, UnitLinear):
                layer.weight.copy_(unit(layer.weight, layer.dim))


class Block(nn.Module):
    """x + attention(norm(x)), then x + f(norm(x)), f with one hidden layer of GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.q, self.k, self.v, self.out = (_linear(width, width) for _ in range(4))
        self.up, self.down = _linear(width, 4 * width), _linear(4 * width, width)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        h = self.first(x)
        q, k, v = (_split(layer(h), self.heads) for layer in (self.q, self.k, self.v))
        q, k = _rotated(q, rotation), _rotated(k, rotation)
        x = x + self.out(_join(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
        return x + self.down(F.gelu(self.up(self.second(x))))


class UnitBlock(nn.Module):
    """A block of nGPT, with a gated network (SwiGLU) of 4 times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (UnitLinear(width, width) for _ in range(3))
        self.out = UnitLinear(width, width, dim=0)
        self.up, self.gate = (UnitLinear(width, 4 * width) for _ in range(2))
        self.down = UnitLinear(4 * width, width, dim=0)
        self.scale_qk = Scale(width, 1.0, width)
        self.scale_up, self.scale_gate = (Scale(4 * width, 1.0) for _ in range(2))
        self.alpha, self.beta = (Scale(width, _ALPHA, width) for _ in range(2))

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        width = x.shape[-1]
        q, k, v = (_split(layer(x), self.heads) for layer in (self.q, self.k, self.v))
        scale = self.scale_qk().view(self.heads, 1, -1)
        q, k = (scale * unit(_rotated(part, rotation)) for part in (q, k))
        size = width // self.heads
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=size**0.5)
        x = _towards(x, self.out(_join(found)), self.alpha())
        up = self.scale_up() * self.up(x)
        gate = width**0.5 * self.scale_gate() * self.gate(x)
        inside = width**0.5 * up * F.silu(gate)
        return _towards(x, self.down(inside), self.beta())


class UnitLinear(nn.Linear):
    """A linear map by W / |W|, with lengths along `dim`: 1 of rows, 0 of columns. It has no bias.

    It is a layer of its own, so that OPT finds it and puts V in the place of W before that.
    """

    def __init__(self, fan_in: int, fan_out: int, bias: bool = False, dim: int = 1) -> None:
        super().__init__(fan_in, fan_out, bias=bias)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, unit(self.weight, self.dim))


class Scale(nn.Module):
    """Trained factors that start at `start`; stored as 1 / sqrt(width), which sets their step."""

    def __init__(self, size: int, start: float, width: int = 1) -> None:
        super().__init__()
        self.stored = nn.Parameter(torch.full((size,), width**-0.5))
        self.factor = start * width**0.5

    def forward(self) -> Tensor:
        return self.stored * self.factor


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """Return x with vectors of length 1 along `dim`."""
    return F.normalize(x, dim=dim)


def _towards(x: Tensor, goal: Tensor, alpha: Tensor) -> Tensor:
    """Return u(x + |alpha| (u(goal) - u(x)))."""
    return unit(unit(x) + alpha.abs() * (unit(goal) - unit(x)))


def _linear(fan_in: int, fan_out: int) -> nn.Linear:
    return nn.Linear(fan_in, fan_out, bias=False)


def _split(x: Tensor, heads: int) -> Tensor:
    """Return (B, heads, T, size) of (B, T, heads size)."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _rotation(context: int, size: int) -> Tensor:
    """Return cosines and sines (2, context, size / 2) of the angle t 10000^(-2 i / size)."""
    rates = 10_000.0 ** (-torch.arange(0, size, 2) / size)
    angles = torch.arange(context)[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()])


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the pairs (i, i + size / 2) of x (..., T, size)."""
    cos, sin = rotation.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
