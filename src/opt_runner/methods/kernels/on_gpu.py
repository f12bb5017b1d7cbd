"""Decompositions of whole stacks on a GPU, by products, Cholesky factors and triangular solves.

Note [Decompositions on a GPU]: CUDA's LU, QR and SVD of such sizes work on one matrix at a time,
in many small kernels, and the SVD makes the CPU wait. What is here takes the whole stack and does
not wait. It is in float64, because Gram matrices square the condition of R; then Q and dL/dR of a
float32 R are those of the CPU to rounding, up to the largest condition that float32 can hold.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_sizes_on_gpu = ContextVar("_sizes_on_gpu", default=False)


@contextmanager
def sizes_as_on(device: torch.device) -> Iterator[None]:
    """Within the block, tensors without content (`meta`) are made as they would be on `device`."""
    before = _sizes_on_gpu.set(_is_gpu(device))
    try:
        yield
    finally:
        _sizes_on_gpu.reset(before)


def on_gpu(tensor: Tensor) -> bool:
    """Return True on a device for Note [Decompositions on a GPU]."""
    return _sizes_on_gpu.get() if tensor.device.type == "meta" else _is_gpu(tensor.device)


def _is_gpu(device: torch.device) -> bool:
    return device.type not in ("cpu", "mps", "xpu")  # the last two may have no float64


def lq(R: Tensor) -> tuple[Tensor, Tensor]:
    """Return L, lower triangular with a positive diagonal, and Q of R = L Q (k, d, d), in float64.

    Q = L2^-1 L1^-1 R and L = L1 L2, from L1 L1^T = R R^T + s I and L2 L2^T = Q1 Q1^T with
    Q1 = L1^-1 R. The shift s leaves the first matrix positive definite, and the second one has a
    condition below 1e3 for an R up to 1e9. NaN if R is singular.
    Source: Fukaya et al., "Shifted Cholesky QR" (2020).
    """
    R = R.double()
    G = R @ R.mT
    shift = 1e-12 * G.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
    G.diagonal(dim1=-2, dim2=-1).add_(shift)
    L1 = _cholesky(G)
    Q1 = torch.linalg.solve_triangular(L1, R, upper=False)
    L2 = _cholesky(Q1 @ Q1.mT)
    return L1 @ L2, torch.linalg.solve_triangular(L2, Q1, upper=False)


def lq_gradient(L: Tensor, Q: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Return L^-T triu(A B^T - B A^T, 1) Q for A, B (k, d, n): see `qr_gradient`."""
    M = A.to(L.dtype) @ B.to(L.dtype).mT
    return torch.linalg.solve_triangular(L.mT, (M - M.mT).triu(1) @ Q, upper=True)


def factor(B: Tensor) -> Tensor:
    """Return the Cholesky factor C of B B^T = C C^T for B (k, d, d), in float64."""
    B = B.double()
    return _cholesky(B @ B.mT)


def solve(B: Tensor, C: Tensor, X: Tensor) -> Tensor:
    """Return B^-1 X = B^T (C C^T)^-1 X for X (k, d, n), with C of `factor`, for B or for B^T.

    B is I - A with a skew A, so that B B^T = B^T B.
    """
    half = torch.linalg.solve_triangular(C, X.to(C.dtype), upper=False)
    whole = torch.linalg.solve_triangular(C.mT, half, upper=True)
    return (B.mT.to(C.dtype) @ whole).to(X.dtype)


def polar(R: Tensor) -> Tensor:
    """Return the polar factor of R (k, d, d), in float64: X <- a X + b X X^T X, from R / s."""
    X, _ = _scaled(R)
    for a, b in _STEPS:
        X = torch.baddbmm(X, X @ X.mT, X, beta=a, alpha=b)
    return X


def polar_gradient(R: Tensor, Q: Tensor, G: Tensor) -> Tensor:
    """Return dL/dR from G = dL/dQ (k, d, d) of Q = polar(R), in float64.

    The polar factor is the gradient of the nuclear norm of R, so its derivative is self-adjoint:
    dL/dR is the derivative of `polar` in the direction G, by the product rule in each step. Only
    the part Q A of G with a skew A counts. The steps would magnify the rest until its rounding
    counts, so it is cut before and after.
    """
    X, s = _scaled(R)
    Y = _tangent(Q, G.to(Q.dtype)) / s
    for a, b in _STEPS:
        A, T = X @ X.mT, Y @ X.mT
        Y = torch.baddbmm(Y, A, Y, beta=a, alpha=b).baddbmm_(T + T.mT, X, alpha=b)
        X = torch.baddbmm(X, A, X, beta=a, alpha=b)
    return _tangent(Q, Y)


def _tangent(Q: Tensor, G: Tensor) -> Tensor:
    """Return Q A with A the skew part of Q^T G."""
    A = Q.mT @ G
    return Q @ (A - A.mT) / 2


def _scaled(R: Tensor) -> tuple[Tensor, Tensor]:
    """Return R / s and s = ||R R^T||^(1/2) (Frobenius) >= the largest singular value."""
    R = R.double()
    s = torch.linalg.matrix_norm(R @ R.mT, keepdim=True).sqrt()
    return R / s, s


def _cholesky(G: Tensor) -> Tensor:
    # `_ex` does not wait to learn whether G is positive definite.
    L, failed = torch.linalg.cholesky_ex(G)
    return L.masked_fill((failed > 0)[..., None, None], torch.nan)


def _steps(low: float) -> Iterator[tuple[float, float]]:
    """Yield (a, b) of cubic steps x <- a x + b x^3 that take singular values of [low, 1] to 1.

    In each step the cubic that is nearest to 1 on [l, u]: k ((l^2 + l u + u^2) x - x^3). It takes
    the interval to [p, 2 - p] with p its value at l.
    Source: Chen and Chow, "A stable scaling of Newton-Schulz" (2014).
    """
    high = 1.0
    while high - low > 1e-9:
        square = low * low + low * high + high * high
        k = 2 / (2 * math.sqrt(square / 3) ** 3 + low * low * high + high * high * low)
        yield k * square, -k
        low = k * (square * low - low**3)
        high = 2 - low


# Singular values below 1e-7 of the largest one are rounding in float32.
_STEPS = tuple(_steps(1e-8))
