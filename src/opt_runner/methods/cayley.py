"""OPT (CP): Q is the Cayley transform of a skew-symmetric matrix."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from opt_runner.methods.base import Method, method_options
from opt_runner.methods.linalg import each


@method_options
class Cayley(Method):
    """Q(R) = (I + A)(I - A)^-1 with A = triu(R, 1) - triu(R, 1)^T: det Q = 1.

    Only the strict upper triangle of R acts. I - A has singular values >= 1: the transform exists
    for every R and loses no accuracy.
    """

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        V: Tensor = _CayleyApply.apply(R, W)
        return V


class _CayleyApply(torch.autograd.Function):
    """V = Q W without Q. With B = I - A: Y = B^-1 W, V = (2I - B) Y = 2Y - W.

    Backward, G = dL/dV: Z = B^-T G by the same factors, and dL/dR = 2 triu(Z Y^T - Y Z^T, 1),
    one product of rank 2n.
    """

    @staticmethod
    def forward(ctx: Any, R: Tensor, W: Tensor) -> Tensor:
        LU, pivots, Y = each(_factor_and_solve, R, W)
        ctx.save_for_backward(LU, pivots, Y)
        return 2 * Y - W

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, None]:
        (dR,) = each(_gradient, *ctx.saved_tensors, G)
        return dR, None


def _factor_and_solve(R: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    upper = R.triu(1)
    B = upper.mT - upper
    B.diagonal(dim1=-2, dim2=-1).add_(1)
    # `_ex` does not wait for the GPU to learn whether B is singular: it never is.
    LU, pivots, _ = torch.linalg.lu_factor_ex(B)
    return LU, pivots, torch.linalg.lu_solve(LU, pivots, W)


def _gradient(LU: Tensor, pivots: Tensor, Y: Tensor, G: Tensor) -> tuple[Tensor]:
    Z = torch.linalg.lu_solve(LU, pivots, G, adjoint=True)
    left, right = torch.cat([Z, -Y], dim=-1), torch.cat([Y, Z], dim=-1)
    return ((left @ right.mT).triu_(1).mul_(2),)
