"""OPT (CP): Q is the Cayley transform of a skew-symmetric matrix."""

import torch
from torch import Tensor

from opt_runner.methods.base import method_options
from opt_runner.methods.linalg import skew_product
from opt_runner.methods.thin import Kept, ThinMethod


@method_options
class Cayley(ThinMethod):
    """Q(R) = (I + A)(I - A)^-1 with A = triu(R, 1) - triu(R, 1)^T: det Q = 1.

    Only the strict upper triangle of R acts. I - A has singular values >= 1: the transform exists
    for every R and loses no accuracy.
    """

    @staticmethod
    def apply(R: Tensor, W: Tensor) -> tuple[Tensor, Kept]:
        """V = Q W without Q. With B = I - A: Y = B^-1 W, V = (2I - B) Y = 2Y - W."""
        upper = R.triu(1)
        B = upper.mT - upper
        B.diagonal(dim1=-2, dim2=-1).add_(1)
        # `_ex` does not wait for the GPU to learn whether B is singular: it never is.
        LU, pivots, _ = torch.linalg.lu_factor_ex(B)
        Y = torch.linalg.lu_solve(LU, pivots, W)
        return 2 * Y - W, (LU, pivots, Y)

    @staticmethod
    def gradient(kept: Kept, G: Tensor) -> Tensor:
        """dL/dR = 2 triu(Z Y^T - Y Z^T, 1) with Z = B^-T G, by the factors of B."""
        LU, pivots, Y = kept
        Z = torch.linalg.lu_solve(LU, pivots, 2 * G, adjoint=True)
        return skew_product(Z, Y).triu_(1)
