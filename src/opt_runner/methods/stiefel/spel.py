"""SPEL: momentum made orthonormal, a step, and one projection back."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.methods.base import method_options, searched
from opt_runner.methods.kernels.cayley_transform import msign
from opt_runner.methods.kernels.stiefel_sgd import StiefelSGD
from opt_runner.methods.stiefel.orthogonal_r import SpectralU


class SpelSGD(StiefelSGD):
    """SGD, but a parameter group with `retract` moves its stacks U (k, d, n), G = dL/dU.

        N <- b N + (1 - b) G;  U <- msign((1 - lr w) U - lr msign(N))

    b is the group's `average`, w its `decay`. msign is the polar factor, exact here.
    """

    def move(self, X: Tensor, G: Tensor, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        if not state:
            state["momentum_buffer"] = torch.zeros_like(X)
        N = state["momentum_buffer"].lerp_(G, 1 - group["average"])
        lr = group["lr"]
        X.copy_(msign((1 - lr * group["decay"]) * X - lr * msign(N)))


@method_options
class Spel(SpectralU):
    """V = U S, U moved by `SpelSGD`: steepest descent under the spectral norm.

    average: b of the momentum. decay: w. rotation_lr: published 3e-4 for language models.

    Source: arXiv 2601.21487, code github.com/NVIDIA-NeMo/Emerging-Optimizers at fd77292, spel.py.
    Departs: exact polar factors, published Newton-Schulz steps; S of W is kept by default,
    published S = I; momentum starts at 0 in both.
    """

    average: Annotated[float, Field(ge=0, lt=1)] = 0.95
    decay: Annotated[float, Field(ge=0, le=1)] = 0.1

    colour = "#D97757"
    optimizer_class = SpelSGD
    group_keys = ("average", "decay")
    search = searched(rotation_lr="tag(log,interval(0.001,0.3))")
