"""OPT (HR): Q is a product of d - 1 Householder reflections built from the columns of R."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from opt_runner.methods.base import Method, method_options
from opt_runner.methods.linalg import each, positive_signs


@method_options
class Householder(Method):
    """R = Q U: each reflection maps the rest of its column to +norm * e1.

    U is upper triangular with a positive diagonal but for the last entry, whose sign makes
    det Q = (-1)^(d-1): d - 1 reflections, each of determinant -1.
    """

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        V: Tensor = _HouseholderApply.apply(R, W)
        return V


class _HouseholderApply(torch.autograd.Function):
    """V = Q W from R = H U' by LAPACK: Q = H D, U = D U' with the signs D of Note [Signs of hr].

    Backward, G = dL/dV: P = Q^T G, T = tril(P W^T - W P^T, -1), dL/dR = Q T U^-T. Finite at R = I,
    where the reflections written out divide zero by zero.
    """

    @staticmethod
    def forward(ctx: Any, R: Tensor, W: Tensor) -> Tensor:
        factors, tau, signs, V = each(_factor_and_apply, R, W)
        ctx.save_for_backward(factors, tau, signs, W)
        return V

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, None]:
        (dR,) = each(_gradient, *ctx.saved_tensors, G)
        return dR, None


def _factor_and_apply(R: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    factors, tau = torch.geqrf(R)
    signs = _reflection_signs(factors, tau)
    V = torch.ormqr(factors, tau, signs.unsqueeze(-1) * W, left=True)
    return factors, tau, signs, V


def _reflection_signs(factors: Tensor, tau: Tensor) -> Tensor:
    """Note [Signs of hr]: all of U's diagonal but the last entry is positive.

    det H = (-1)^(number of reflections LAPACK made), those with tau != 0. The last sign makes
    det(H D) = (-1)^(d-1).
    """
    signs = positive_signs(factors)
    d = tau.shape[-1]
    others = signs[..., :-1].prod(-1)
    made = (tau != 0).sum(-1)
    signs[..., -1] = others * (1 - 2 * ((made + d - 1) % 2)).to(others.dtype)
    return signs


def _gradient(factors: Tensor, tau: Tensor, signs: Tensor, W: Tensor, G: Tensor) -> tuple[Tensor]:
    P = signs.unsqueeze(-1) * torch.ormqr(factors, tau, G, left=True, transpose=True)
    left, right = torch.cat([P, -W], dim=-1), torch.cat([W, P], dim=-1)
    T = (left @ right.mT).tril_(-1)
    # U = D U', Q = H D: Q T U^-T = H (D T D) U'^-T.
    T = T.mul_(signs.unsqueeze(-1)).mul_(signs.unsqueeze(-2))
    X = torch.linalg.solve_triangular(factors.mT, T, upper=False, left=False)
    return (torch.ormqr(factors, tau, X, left=True),)
