"""Matrix routines that several methods share; on matrices or on stacks of them."""

import torch
from torch import Tensor


def positive_signs(factors: Tensor) -> Tensor:
    """Return D (..., d), +1 or -1, for which the diagonal of D U is positive; U of a QR."""
    diagonal = factors.diagonal(dim1=-2, dim2=-1)
    return torch.where(diagonal < 0, -1.0, 1.0).to(factors.dtype)


def add_one_(X: Tensor) -> Tensor:
    """Return I + X; X is overwritten."""
    X.diagonal(dim1=-2, dim2=-1).add_(1)
    return X


def skew_product(A: Tensor, B: Tensor) -> Tensor:
    """Return a B^T - B A^T of A, B (..., d, n)."""
    if A.shape[-1] < _WIDE:
        # One product of rank 2n: nothing of size d x d is transposed, which is slow for d = 1024.
        return torch.cat([A, B], dim=-1) @ torch.cat([B, -A], dim=-1).mT
    M = A @ B.mT
    return M - M.mT


def gram(R: Tensor) -> Tensor:
    """Return R R^T for R (k, d, m). On the CPU compute only the upper half, and mirror it."""
    if R.device.type != "cpu":
        return R @ R.mT
    G = R.new_empty(*R.shape[:-1], R.shape[-2])
    for i in range(len(R)):
        for start in range(0, R.shape[-2], _PANEL):
            rows = slice(start, start + _PANEL)
            torch.mm(R[i, rows], R[i, start:].mT, out=G[i, rows, start:])
            G[i, start + _PANEL :, rows] = G[i, rows, start + _PANEL :].mT
    return G


def solve_upper_(U: Tensor, T: Tensor) -> Tensor:
    """Compute T <- U^-1 T for upper triangular U and T; below U's diagonal nothing is read.

    A third of the operations of a solve for a full T, and nearly all of them in products.
    """
    d = U.shape[-1]
    for start in reversed(range(0, d, _PANEL)):
        stop = min(start + _PANEL, d)
        panel = T[..., start:stop, start:]
        panel[..., stop - start :] -= U[..., start:stop, stop:] @ T[..., stop:, stop:]
        block = U[..., start:stop, start:stop]
        panel.copy_(torch.linalg.solve_triangular(block, panel, upper=True))
    return T


# Measured on a CPU, for d = 576 and 1024: panels of 96 to 192 hardly differ.
_PANEL = 144
_WIDE = 128


def qr_gradient(factors: Tensor, tau: Tensor, signs: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Return U^-1 D triu(A B^T - B A^T, 1) D H^T for `geqrf`'s H U and signs D (..., d).

    `gs` and `hr` both differentiate a QR decomposition: this is what dL/dR is made of.
    """
    A, B = signs.unsqueeze(-1) * A, signs.unsqueeze(-1) * B
    # Its transpose is made, as LAPACK wants columns: they are rows in memory.
    T = skew_product(B, A).tril_(-1).mT
    return torch.ormqr(factors, tau, solve_upper_(factors, T), left=False, transpose=True)


def svd(R: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return torch.linalg.svd of R (..., d, n). Raises LinAlgError, for one if R is not finite.

    For some float32 matrices of many almost equal singular values, well conditioned as they are (R
    after some steps from I), MKL's divide and conquer does not converge, or says that it has and
    gives NaN. In float64 it converges, to finite numbers.
    """
    if R.device.type == "cpu" and not R.isfinite().all():
        # LAPACK would raise it too, but MKL's first writes lines of its own to the terminal.
        raise torch.linalg.LinAlgError("R has values that are not finite")  # type: ignore[attr-defined]
    try:
        X, S, Yt = torch.linalg.svd(R, full_matrices)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        if R.dtype == torch.float64 or not R.isfinite().all():
            raise
        return _svd_in_float64(R, full_matrices)
    if R.device.type == "cpu" and R.dtype == torch.float32 and not X.isfinite().all():
        return _svd_in_float64(R, full_matrices)
    return X, S, Yt


def _svd_in_float64(R: Tensor, full_matrices: bool) -> tuple[Tensor, Tensor, Tensor]:
    X, S, Yt = (part.to(R.dtype) for part in torch.linalg.svd(R.double(), full_matrices))
    return X, S, Yt
