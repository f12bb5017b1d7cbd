"""GOFT: Q is a tree of Givens rotations, one angle each."""

import math

import torch
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import MaybeGenerator, Tensors, method_options
from opt_runner.methods.rotation import Rotation


@method_options
class GivensRotations(Rotation):
    """V = G_L ... G_1 W, products of plane rotations.

    G_l turns coordinates 2^l k and 2^l k + 2^(l-1), for every k, each pair by an angle pi tanh(r)
    of its own. There are d - 1 pairs: R is (d - 1), from 0.

    d - 1 angles carry any one vector to any other, but do not reach every rotation.

    Source: Ma et al., "Parameter efficient quasi-orthogonal fine-tuning via Givens rotation" (ICML
    2024); code github.com/ArthurLeoM/peft-givens, tuners/givens/layer.py. Departs: pairs are the
    formula's; the code turns neighbours at every level, which is not orthogonal for d > 2. Its
    scale a coordinate and its free 2 x 2 matrices (qGOFT) are left out.
    """

    family = "maps"
    colour = "#9C6B98"

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        return {"R": torch.zeros(layer.d - 1)}

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        # Of each level only the coordinates that the next one turns are taken along.
        angles = math.pi * R.tanh()
        levels, active, used = [], W, 0
        while active.shape[1] > 1:
            first, second = active[:, 0::2], active[:, 1::2]
            pairs = second.shape[1]
            of_level = angles[:, used : used + pairs].unsqueeze(-1)
            c, s = of_level.cos(), of_level.sin()
            single = first[:, pairs:]  # the last coordinate, where their number is odd
            turned = c * first[:, :pairs] - s * second
            levels.append(s * first[:, :pairs] + c * second)
            active, used = torch.cat([turned, single], dim=1), used + pairs
        for done in reversed(levels):
            pairs = done.shape[1]
            woven = torch.stack([active[:, :pairs], done], dim=2).flatten(1, 2)
            active = torch.cat([woven, active[:, pairs:]], dim=1)
        return active
