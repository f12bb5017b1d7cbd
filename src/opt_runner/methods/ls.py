"""OPT (LS): Q is the orthogonal matrix nearest to R (Löwdin's symmetric orthogonalisation)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from opt_runner.methods.base import Method, method_options
from opt_runner.methods.linalg import each


@method_options
class Lowdin(Method):
    """Q(R) = X Y^T of the singular value decomposition R = X S Y^T: the polar factor of R.

    Gradients grow with 1 / (sum of the two smallest singular values).
    """

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        V: Tensor = _LowdinApply.apply(R, W)
        return V


class _LowdinApply(torch.autograd.Function):
    """V = X (Y^T W). Backward, G = dL/dV: P = X^T G, N = Y^T W,
    dL/dR = X [(P N^T - N P^T) / (s_i + s_j)] Y^T.

    Only sums of singular values divide: finite for repeated ones, as at R = I, where the
    derivative of the decomposition itself is not.
    """

    @staticmethod
    def forward(ctx: Any, R: Tensor, W: Tensor) -> Tensor:
        X, S, Yt, N, V = each(_decompose_and_apply, R, W)
        ctx.save_for_backward(X, S, Yt, N)
        return V

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, None]:
        (dR,) = each(_gradient, *ctx.saved_tensors, G)
        return dR, None


def _decompose_and_apply(R: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    X, S, Yt = torch.linalg.svd(R)
    N = Yt @ W
    return X, S, Yt, N, X @ N


def _gradient(X: Tensor, S: Tensor, Yt: Tensor, N: Tensor, G: Tensor) -> tuple[Tensor]:
    P = X.mT @ G
    left, right = torch.cat([P, -N], dim=-1), torch.cat([N, P], dim=-1)
    core = (left @ right.mT).div_(S.unsqueeze(-1) + S.unsqueeze(-2))
    return (X @ core @ Yt,)
