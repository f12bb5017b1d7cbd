"""HRA: Q is a product of a few Householder reflections."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from opt_runner.layers import Layer
from opt_runner.methods.base import Coefficient, MaybeGenerator, Tensors, method_options
from opt_runner.methods.rotation import Rotation


@method_options
class HouseholderReflections(Rotation):
    """V = H_r ... H_1 W, H_i = I - 2 u_i u_i^T / ||u_i||^2: the u_i are the columns of R (d, r).

    They start in equal pairs, by which Q = I, uniform between +-sqrt(2 / r).

    reflections: r, even; a layer of smaller d has as many as fit.
    scale: the loss gains scale * sum over layers of ||I - U^T U||_F^2, U the unit u_i.

    Source: Yuan, Liu, Xu, "Bridging the gap between low-rank and orthogonal adaptation via
    Householder reflection adaptation" (NeurIPS 2024); code github.com/DaShenZi721/HRA,
    generation/control/hra.py, which has no penalty; its weight is the text's for r >= 16. Left
    out: the code's Gram-Schmidt form, which does not start at I, and not well defined there.
    """

    reflections: Annotated[int, Field(gt=0, multiple_of=2, le=100_000)] = 8
    scale: Coefficient = 1e-4

    family = "maps"
    colour = "#C988E0"

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        pairs = max(1, min(self.reflections, layer.d) // 2)
        u = torch.empty(layer.d, pairs).uniform_(-1, 1, generator=generator) / pairs**0.5
        return {"R": u.repeat_interleave(2, dim=1)}

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        V = W
        for u in normalize(R, dim=-2).unbind(-1):
            V = V - 2 * u.unsqueeze(-1) * (u.unsqueeze(-2) @ V)
        return V

    def penalty(self, layer: Layer, W: Tensor, V: Tensor, step: int, R: Tensor) -> Tensor | None:
        if not self.scale:
            return None
        U = normalize(R, dim=-2)
        eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
        return self.scale * (eye - U.mT @ U).square().sum()
