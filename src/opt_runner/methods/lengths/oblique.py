"""Oblique: the length of each neuron stays, its direction is free."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import Tensors, method_options
from opt_runner.methods.kernels.stiefel_sgd import StiefelSGD
from opt_runner.methods.moved import MovedV

_LEAST = 1e-30  # a neuron of length 0 stays 0


class ObliqueSGD(StiefelSGD):
    """SGD, but a parameter group with `retract` moves neurons v, columns of V (k, d, n).

    Of each neuron with length l and direction u = v / l, and g = l dL/dv its gradient dL/du:

        b <- m b + g;  u <- normalise(u - lr (b - u (u . b)));  v <- l u
    """

    def move(self, X: Tensor, G: Tensor, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        if not state:
            state["lengths"] = torch.linalg.vector_norm(X, dim=-2, keepdim=True)
        lengths = state["lengths"]
        U = X / lengths.clamp(min=_LEAST)
        b = self.momentum(X, lengths * G, group, state)
        U = U - group["lr"] * (b - U * (U * b).sum(-2, keepdim=True))
        X.copy_(lengths * U / torch.linalg.vector_norm(U, dim=-2, keepdim=True).clamp(min=_LEAST))


@method_options
class Oblique(MovedV):
    """V trains, each neuron on the sphere of its length: angles between neurons are free.

    With OPT it answers whether lengths or angles matter.

    Measured: `length_change`, the largest change of a neuron's length, as a share of that length.

    Source: ObliqueSGD of github.com/NVIDIA-NeMo/Emerging-Optimizers at fd77292,
    normalized_optimizer.py. Departs: neurons keep the lengths that they have, published 1;
    rotation_lr.
    """

    family = "lengths"
    colour = "#5B8C5A"
    optimizer_class = ObliqueSGD

    def turns(self, layer: Layer) -> bool:
        return layer.d > 1

    def measure(self, W: Tensor, V: Tensor, **others: Any) -> Tensors:
        before, now = (torch.linalg.vector_norm(X, dim=-2) for X in (W, V))
        return {"length_change": ((now - before).abs() / before.clamp(min=_LEAST)).amax(-1)}
