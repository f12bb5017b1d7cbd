"""Iso: the two frames of the singular value decomposition train, the singular values stay."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from opt_runner.geometry import orthogonality_error
from opt_runner.layers import Layer
from opt_runner.methods.base import MaybeGenerator, Tensors, method_options
from opt_runner.methods.kernels.cayley_transform import cayley_retraction, msign, qf
from opt_runner.methods.kernels.stiefel_sgd import StiefelSGD
from opt_runner.methods.moved import Moved


class IsoSGD(StiefelSGD):
    """SGD, but a parameter group with `retract` keeps its stacks X (k, d, r) orthonormal.

        M <- m M + dL/dX;  X <- qf(X - lr M), or the polar factor of X - lr M, or the Cayley
        transform of lr (X M^T - M X^T) on X

    as the group's `retraction` says: `qf`, `polar` or `cayley`.
    """

    def move(self, X: Tensor, G: Tensor, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        M = self.momentum(X, G, group, state)
        if group["retraction"] == "cayley":
            X.copy_(cayley_retraction(X, -group["lr"] * M))
        else:
            X.copy_((qf if group["retraction"] == "qf" else msign)(X - group["lr"] * M))


@method_options
class Iso(Moved):
    """V = U S P^T: U (d, r) and P (n, r) train with orthonormal columns, r = min(d, n); S is fixed.

    It is to `poet` what `frame` is to OPT: both sides turn and no square matrix of size d is built.
    U S P^T is the singular value decomposition of W at the start.

    side: `both` as published; `in` trains U alone, which turns V as OPT does.
    retraction: `qf` (QR with a positive diagonal) as published, or the options published beside it.

    Source: arXiv 2607.19331, code github.com/NVIDIA-NeMo/Emerging-Optimizers at fd77292,
    riemannian_optimizers/isospectral.py. Departs: rotation_lr, published 1e-3.
    """

    side: Literal["in", "both"] = "both"
    retraction: Literal["qf", "polar", "cayley"] = "qf"

    family = "spectrum"
    colour = "#63A4D8"
    optimizer_class = IsoSGD
    group_keys = ("retraction",)

    def turns(self, layer: Layer) -> bool:
        return self.side != "in" or layer.d > 1

    def draw(self, layer: Layer, W: Tensor, generator: torch.Generator) -> Tensors:
        _, S, Pt = torch.linalg.svd(W, full_matrices=False)
        return {"S": S, "P": Pt.mT} if self.side == "in" else {"S": S}

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        U, _, Pt = torch.linalg.svd(W, full_matrices=False)
        return {"U": U} if self.side == "in" else {"U": U, "P": Pt.mT.contiguous()}

    def weight(self, W: Tensor, U: Tensor, P: Tensor, S: Tensor) -> Tensor:
        return U * S.unsqueeze(-2) @ P.mT

    def measure(self, W: Tensor, V: Tensor, U: Tensor, P: Tensor, S: Tensor) -> Tensors:
        """Return the larger of the errors of U and P, |U^T U - I| and |P^T P - I|."""
        return {
            "orthogonality_error": torch.maximum(orthogonality_error(U), orthogonality_error(P))
        }
