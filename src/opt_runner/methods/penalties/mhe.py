"""MHE: minimum hyperspherical energy."""

import math
from typing import Literal

import torch
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import Coefficient, method_options, searched
from opt_runner.methods.penalties.penalty import Penalty

Power = Literal[0, 1, 2]


@method_options
class MinimumEnergy(Penalty):
    """The loss gains, for each layer, a weight times the mean energy of a pair of its neurons.

    With c = w_i . w_j / (m_i m_j), m_i = sqrt(||w_i||^2 + 1e-4) and D = 2 - 2c, a pair has

        power 0:  -log D                 angular:  -log A     A = acos(c) / pi + 1e-4
              1:  D^-1/2                           A^-1
              2:  D^-1                             A^-2

    half: of the neurons and their opposites [W, -W], the pairs (w_i, -w_i) among them; the
        classifier always has full space, as published.
    hidden_weight: of a hidden layer; None: the authors', 1, or 0.1 for angular powers 1 and 2.
    output_weight: of the classifier; None: the authors', 10 times that.

    Source: Liu et al., "Learning towards minimum hyperspherical energy" (NeurIPS 2018); code
    github.com/wy1iu/MHE, code/architecture.py. Departs: |c| is at most 1 - 1e-6, for acos. The
    logs of their full-space runs show weights ten times smaller than their code.
    """

    power: Power = 0
    angular: bool = False
    half: bool = False
    hidden_weight: Coefficient | None = None
    output_weight: Coefficient | None = None

    colour = "#1F3F8F"
    search = searched(hidden_weight="tag(log,interval(0.01,10))", power="0,1,2")

    def kind(self, layer: Layer) -> bool:
        return layer.output

    def penalty(self, layer: Layer, W: Tensor, V: Tensor, step: int) -> Tensor | None:
        weight = self.weight_of(layer)
        if layer.n < 2 or not weight:
            return None
        half = self.half and not layer.output
        return weight * pair_energy(W, self.power, self.angular, half).sum()

    def weight_of(self, layer: Layer) -> float:
        authors = 0.1 if self.angular and self.power else 1.0
        if layer.output:
            return 10 * authors if self.output_weight is None else self.output_weight
        return authors if self.hidden_weight is None else self.hidden_weight


def pair_energy(W: Tensor, power: Power, angular: bool, half: bool) -> Tensor:
    """Return the mean over pairs for W (k, d, n), n > 1: (k,). See `MinimumEnergy`."""
    n = W.shape[-1]
    gram = W.mT @ W
    lengths = (gram.diagonal(dim1=-2, dim2=-1) + 1e-4).sqrt()
    cosines = gram / (lengths.unsqueeze(-1) * lengths.unsqueeze(-2))
    i, j = torch.triu_indices(n, n, offset=1, device=W.device)
    between = cosines[..., i, j]
    if not half:
        return _energy(between, power, angular).mean(-1)
    # Of the pairs of [W, -W], c and -c each stand for two, and -c_ii for (w_i, -w_i).
    opposite = -cosines.diagonal(dim1=-2, dim2=-1)
    both = _energy(between, power, angular) + _energy(-between, power, angular)
    total = 2 * both.sum(-1) + _energy(opposite, power, angular).sum(-1)
    return total / (n * (2 * n - 1))


def _energy(cosines: Tensor, power: Power, angular: bool) -> Tensor:
    if angular:
        cosines = cosines.clamp(-1 + 1e-6, 1 - 1e-6)
        angle = cosines.acos() / math.pi + 1e-4
        return -angle.log() if power == 0 else angle.pow(-power)
    squared = 2 - 2 * cosines
    return -squared.log() if power == 0 else squared.pow(-power / 2)
