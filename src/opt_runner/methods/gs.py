"""OPT (GS): Q is the Gram-Schmidt orthonormalisation of the rows of R."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from opt_runner.methods.base import Method, method_options
from opt_runner.methods.linalg import each, positive_signs


@method_options
class GramSchmidt(Method):
    """R = L Q with L lower triangular, diag(L) > 0: Gram-Schmidt on the rows, first row first.

    Gradients grow with the condition of R; R must have full rank, as for the reference.
    """

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        V: Tensor = _GramSchmidtApply.apply(R, W)
        return V


class _GramSchmidtApply(torch.autograd.Function):
    """V = Q W from Householder QR of R^T = H U: Q = D H^T, L = U^T D with D = sign(diag U).

    Same Q as Gram-Schmidt in exact arithmetic, and orthogonal to rounding where the recurrence
    is not. Backward, G = dL/dV: T = triu(G V^T - V G^T, 1), dL/dR = L^-T T Q.
    """

    @staticmethod
    def forward(ctx: Any, R: Tensor, W: Tensor) -> Tensor:
        factors, tau, signs, V = each(_factor_and_apply, R, W)
        ctx.save_for_backward(factors, tau, signs, V)
        return V

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, None]:
        (dR,) = each(_gradient, *ctx.saved_tensors, G)
        return dR, None


def _factor_and_apply(R: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    factors, tau = torch.geqrf(R.mT)
    signs = positive_signs(factors)
    V = signs.unsqueeze(-1) * torch.ormqr(factors, tau, W, left=True, transpose=True)
    return factors, tau, signs, V


def _gradient(factors: Tensor, tau: Tensor, signs: Tensor, V: Tensor, G: Tensor) -> tuple[Tensor]:
    left, right = torch.cat([G, -V], dim=-1), torch.cat([V, G], dim=-1)
    T = (left @ right.mT).triu_(1)
    # L^T = D U, and T Q = T D H^T. D commutes out of both ends: L^-T T Q = U^-1 (D T D) H^T.
    T = T.mul_(signs.unsqueeze(-1)).mul_(signs.unsqueeze(-2))
    TQ = torch.ormqr(factors, tau, T, left=False, transpose=True)
    return (torch.linalg.solve_triangular(factors, TQ, upper=True),)
