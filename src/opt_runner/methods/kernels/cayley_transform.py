"""The Cayley transform of a skew matrix on some columns, and retractions to orthonormal columns."""

import torch
from torch import Tensor

from opt_runner.methods.kernels.linalg import add_one_, positive_signs, svd
from opt_runner.methods.kernels.on_gpu import factor, on_gpu, solve
from opt_runner.methods.kernels.threads import each


def cayley_transform(A: Tensor, X: Tensor) -> Tensor:
    """Return (I - A/2)^-1 (I + A/2) X for skew A (k, d, d) and X (k, d, m): the norm of X stays.

    On the CPU matrices are solved one at a time: batched LU with several threads is wrong there.
    """
    B, X = add_one_(-A / 2), X + A @ X / 2
    return solve(B, factor(B), X) if on_gpu(B) else _solved(B, X)


def cayley_retraction(X: Tensor, N: Tensor) -> Tensor:
    """Return the Cayley transform of K = N X^T - X N^T on X (k, d, r): X + K X to first order.

    K = L M^T with L = [N, X] and M = [X, -N] (d, 2r), so the system to solve is 2r x 2r:
    X + L (I - M^T L / 2)^-1 M^T X. Source: Wen, Yin, "A feasible method for optimization with
    orthogonality constraints" (2013).
    """
    if 2 * X.shape[-1] >= X.shape[-2]:
        K = N @ X.mT
        return cayley_transform(K - K.mT, X)
    L, M = torch.cat([N, X], dim=-1), torch.cat([X, -N], dim=-1)
    return X + L @ _solved(add_one_(-(M.mT @ L) / 2), M.mT @ X)


def qf(X: Tensor) -> Tensor:
    """Return the Q of X = Q U (k, d, r), with a positive diagonal of U."""
    Q, U = torch.linalg.qr(X)
    return Q * positive_signs(U).unsqueeze(-2)


def msign(X: Tensor) -> Tensor:
    """Return A B^T of the singular value decomposition X = A S B^T (k, d, n).

    Directions whose singular value is rounding are left out: X = 0 gives 0.
    """
    A, S, Bt = svd(X, full_matrices=False)
    kept = torch.finfo(X.dtype).eps * max(X.shape[-2:]) * S[..., :1] < S
    return A * kept.to(X).unsqueeze(-2) @ Bt


def _solved(A: Tensor, B: Tensor) -> Tensor:
    if A.device.type == "cpu":
        return torch.stack(each(torch.linalg.solve, list(A), list(B)))
    # `_ex` does not wait for the GPU to learn whether A is singular: it never is.
    return torch.linalg.solve_ex(A, B)[0]
