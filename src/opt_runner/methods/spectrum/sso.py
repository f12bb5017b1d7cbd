"""SSO: the largest singular value of the matrix stays, and each step has the spectral norm."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.methods.base import Tensors, method_options, searched
from opt_runner.methods.kernels.cayley_transform import msign
from opt_runner.methods.kernels.linalg import svd
from opt_runner.methods.kernels.stiefel_sgd import StiefelSGD
from opt_runner.methods.moved import MovedV

_LEAST = 1e-30  # a matrix of zeros stays


class SpectralSphereSGD(StiefelSGD):
    """SGD, but a parameter group with `retract` moves its matrices V (k, d, n) on a sphere.

        M <- m M + (1 - m) dL/dV;  V <- V - lr s A;  V <- V s / s1(V),  s = s1(V) at the start

    s1 is the largest singular value, with the singular vectors a and b of V before the step. A is
    the direction of unit spectral norm that descends most among those with a^T A b = 0:
    A = msign(M / ||M||_F + c a b^T). The group's `bisections` halve [-2 sqrt(r), 2 sqrt(r)],
    r = min(d, n), which holds the root c; 0: c = 0. For a square V the product jumps where
    M + c a b^T is singular, and there may be no root: c is then where it jumps.
    """

    def move(self, X: Tensor, G: Tensor, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        U, S, Bt = svd(X, full_matrices=False)
        if not state:
            state["momentum_buffer"] = torch.zeros_like(X)
            state["norm"] = S[:, :1, None].clone()
        M = state["momentum_buffer"].lerp_(G, 1 - group["momentum"])
        M = M / torch.linalg.matrix_norm(M, keepdim=True).clamp(min=_LEAST)
        top = U[:, :, :1] @ Bt[:, :1]
        A = torch.where((M != 0).any((-2, -1), True), _tangent(M, top, group["bisections"]), 0.0)
        X.sub_(group["lr"] * state["norm"] * A)
        now = torch.linalg.matrix_norm(X, 2, keepdim=True)
        X.mul_(state["norm"] / now.clamp(min=_LEAST))


def _tangent(M: Tensor, top: Tensor, bisections: int) -> Tensor:
    """Return msign(M + c top) with the c for which its inner product with top is 0."""
    if not bisections:
        return msign(M)
    high = torch.full_like(M[:, :1, :1], 2 * min(M.shape[-2:]) ** 0.5)
    low = -high
    for _ in range(bisections):
        middle = (low + high) / 2
        above = (msign(M + middle * top) * top).sum((-2, -1), keepdim=True) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return msign(M + (low + high) / 2 * top)


@method_options
class SpectralSphere(MovedV):
    """V trains on the sphere of its spectral norm: all singular values but the largest are free.

    bisections: of the search for the tangent step; 0: MuonSphere, which searches none.

    Measured: `spectral_norm_change`, the change of the largest singular value as a share of it.

    Source: arXiv 2601.08393, code github.com/Unakar/Spectral-Sphere-Optimizer at 304d7a4, sso.py.
    Departs: V keeps its own spectral norm, published sqrt(out / in); it is on the sphere after each
    step, published before it; exact polar factors; momentum is the recipe's, 0.9 as published.
    """

    bisections: Annotated[int, Field(ge=0, le=100)] = 20

    family = "spectrum"
    colour = "#14476B"
    optimizer_class = SpectralSphereSGD
    group_keys = ("bisections",)
    search = searched(rotation_lr="tag(log,interval(0.001,0.3))")

    def measure(self, W: Tensor, V: Tensor, **others: Any) -> Tensors:
        before, now = (torch.linalg.matrix_norm(X, 2) for X in (W, V))
        return {"spectral_norm_change": (now - before).abs() / before.clamp(min=_LEAST)}
