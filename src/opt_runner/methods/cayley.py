"""OPT (CP): Q is the Cayley transform of a skew-symmetric matrix."""

import torch
from torch import Tensor

from opt_runner.methods.base import method_options
from opt_runner.methods.kernels.fused import FusedRotation, Saved
from opt_runner.methods.kernels.linalg import add_one_, skew_product
from opt_runner.methods.kernels.on_gpu import factor, on_gpu, solve


@method_options
class Cayley(FusedRotation):
    """Q(R) = (I + A)(I - A)^-1 with A = triu(R, 1) - triu(R, 1)^T: det Q = 1.

    Only the strict upper triangle of R acts. I - A has singular values >= 1, so the transform
    exists for every R. Its condition number is at most 1 + ||A||_2, so R of usual size loses no
    accuracy.
    """

    colour = "#CC79A7"

    @staticmethod
    def apply(R: Tensor, W: Tensor) -> tuple[Tensor, Saved]:
        """Return V = Q W, without Q. With B = I - A: Y = B^-1 W, V = (2I - B) Y = 2Y - W."""
        B = _denominator(R)
        if on_gpu(R):
            C = factor(B)
            Y = solve(B, C, W)
            return 2 * Y - W, (R, C, Y)
        # `_ex` raises nothing if B is singular: it never is.
        LU, pivots, _ = torch.linalg.lu_factor_ex(B)
        Y = torch.linalg.lu_solve(LU, pivots, W)
        return 2 * Y - W, (LU, pivots, Y)

    @staticmethod
    def gradient(saved: Saved, G: Tensor) -> Tensor:
        """Return dL/dR = 2 triu(Z Y^T - Y Z^T, 1), Z = B^-T G, from the factors of B."""
        if on_gpu(G):
            R, C, Y = saved
            return skew_product(solve(_denominator(R).mT, C, 2 * G), Y).triu_(1)
        LU, pivots, Y = saved
        Z = torch.linalg.lu_solve(LU, pivots, 2 * G, adjoint=True)
        return skew_product(Z, Y).triu_(1)

    def plain(self, R: Tensor, W: Tensor) -> Tensor:
        """Return V by a QR decomposition of B: LU must not be batched, see `fused`."""
        Q, U = torch.linalg.qr(_denominator(R))
        return 2 * torch.linalg.solve_triangular(U, Q.mT @ W, upper=True) - W


def _denominator(R: Tensor) -> Tensor:
    """Return B = I - A."""
    upper = R.triu(1)
    return add_one_(upper.mT - upper)
