"""Hyperball: the Frobenius norm of the whole matrix stays, all else is free."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from opt_runner.methods.base import Tensors, method_options, searched
from opt_runner.methods.kernels.stiefel_sgd import StiefelSGD
from opt_runner.methods.moved import MovedV

_LEAST = 1e-30  # a matrix of norm 0 stays 0


class HyperballSGD(StiefelSGD):
    """SGD, but a parameter group with `retract` moves its matrices V (k, d, n) on a sphere.

        u <- m u + dL/dV;  V <- R normalise(V - lr R normalise(u)),  R = ||V||_F at the start

    lr is the step as a share of R: about the angle by which V turns.
    """

    def move(self, X: Tensor, G: Tensor, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        if not state:
            state["norm"] = torch.linalg.matrix_norm(X, keepdim=True)
        u = self.momentum(X, G, group, state)
        X.sub_(group["lr"] * state["norm"] * _normalised(u))
        X.copy_(state["norm"] * _normalised(X))


def _normalised(X: Tensor) -> Tensor:
    return X / torch.linalg.matrix_norm(X, keepdim=True).clamp(min=_LEAST)


@method_options
class Hyperball(MovedV):
    """V trains on the sphere of its Frobenius norm: lengths of neurons and angles are free.

    Measured: `norm_change`, the change of the norm as a share of it.

    Source: arXiv 2606.16899, code github.com/NVIDIA-NeMo/Emerging-Optimizers at fd77292,
    hyperball.py. Departs: the step is that of SGD with momentum, published that of any optimizer.
    """

    family = "lengths"
    colour = "#9DBF6E"
    optimizer_class = HyperballSGD
    search = searched(rotation_lr="tag(log,interval(0.001,0.3))")

    def measure(self, W: Tensor, V: Tensor, **others: Any) -> Tensors:
        before, now = (torch.linalg.matrix_norm(X) for X in (W, V))
        return {"norm_change": (now - before).abs() / before.clamp(min=_LEAST)}
