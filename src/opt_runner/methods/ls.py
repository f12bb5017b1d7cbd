"""OPT (LS): Q is the orthogonal matrix nearest to R (Löwdin's symmetric orthogonalisation)."""

import torch
from torch import Tensor

from opt_runner.methods.base import method_options
from opt_runner.methods.kernels.fused import FusedRotation, Saved
from opt_runner.methods.kernels.linalg import skew_product, svd
from opt_runner.methods.kernels.on_gpu import on_gpu, polar, polar_gradient

_NEWTON_STEPS = 12  # enough for a condition number of 1e8 in float64


@method_options
class Lowdin(FusedRotation):
    """Q(R) = X Y^T of the singular value decomposition R = X S Y^T: the polar factor of R.

    Gradients grow with 1 / (sum of the two smallest singular values).
    """

    colour = "#D55E00"

    @staticmethod
    def apply(R: Tensor, W: Tensor) -> tuple[Tensor, Saved]:
        """Return V = Q W; on a GPU by `polar`, without the decomposition."""
        if on_gpu(R):
            Q = polar(R)
            return Q.to(W.dtype) @ W, (R, Q, W)
        X, S, Yt = svd(R)
        N = Yt @ W
        return X @ N, (X, S, Yt, N)

    @staticmethod
    def gradient(saved: Saved, G: Tensor) -> Tensor:
        """Return dL/dR = X [(P N^T - N P^T) / (s_i + s_j)] Y^T with P = X^T G, N = Y^T W.

        Only sums of singular values divide: finite for repeated ones, as at R = I, where the
        derivative of the decomposition itself is not.
        """
        if on_gpu(G):
            R, Q, W = saved
            return polar_gradient(R, Q, G @ W.mT)
        X, S, Yt, N = saved
        core = skew_product(X.mT @ G, N).div_(S.unsqueeze(-1) + S.unsqueeze(-2))
        return X @ core @ Yt

    def plain(self, R: Tensor, W: Tensor) -> Tensor:
        """Return V by Newton's method for the polar factor, X <- (X + X^-T) / 2.

        X is scaled by mu = sqrt(||X^-1|| / ||X||), Frobenius norms, which tends to 1. The inverse
        is by QR: LU must not be batched, see `fused`. Source: Higham, Functions of Matrices, 8.6.
        """
        X = R
        for _ in range(_NEWTON_STEPS):
            Q, U = torch.linalg.qr(X)
            inverse = torch.linalg.solve_triangular(U, Q.mT, upper=True)
            mu = torch.sqrt(_norm(inverse) / _norm(X)).detach()
            X = (mu * X + inverse.mT / mu) / 2
        return X @ W


def _norm(X: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(X, keepdim=True)
