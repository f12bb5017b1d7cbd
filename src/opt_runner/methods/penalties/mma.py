"""MMA: the least angle of each neuron to another grows."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from opt_runner.layers import Layer
from opt_runner.methods.base import Coefficient, method_options, searched
from opt_runner.methods.penalties.penalty import Penalty

_LARGEST_COSINE = 0.99999


@method_options
class MaximalMinimalAngles(Penalty):
    """-scale * sum over layers of the mean over i of the angle from w_i to its nearest neuron.

    Cosines are held within +-0.99999, as published: neurons closer than that are left alone.

    scale: 0.07 for networks without skip connections, 0.03 with them.

    Source: Wang et al., "MMA regularization" (NeurIPS 2020); code
    github.com/wznpub/MMA_Regularization, MMA.py.
    """

    scale: Coefficient = 0.07

    colour = "#2F6DB5"
    search = searched(scale="tag(log,interval(0.01,1))")

    def penalty(self, layer: Layer, W: Tensor, V: Tensor, step: int) -> Tensor | None:
        if layer.n < 2:
            return None
        unit = normalize(W, dim=-2)
        # A neuron of zeros has no direction, and would get a gradient of 1e12.
        unit = torch.where((W != 0).any(-2, keepdim=True), unit, 0.0)
        cosines = unit.mT @ unit - 2 * torch.eye(layer.n, dtype=W.dtype, device=W.device)
        nearest = cosines.amax(-1).clamp(-_LARGEST_COSINE, _LARGEST_COSINE)
        return -self.scale * nearest.acos().mean(-1).sum()
