"""OPT (LS): Q is the orthogonal matrix nearest to R (Löwdin's symmetric orthogonalisation)."""

from torch import Tensor

from opt_runner.methods.base import method_options
from opt_runner.methods.kernels.fused import FusedRotation, Saved
from opt_runner.methods.kernels.linalg import skew_product, svd


@method_options
class Lowdin(FusedRotation):
    """Q(R) = X Y^T of the singular value decomposition R = X S Y^T: the polar factor of R.

    Gradients grow with 1 / (sum of the two smallest singular values).
    """

    colour = "#D55E00"

    @staticmethod
    def apply(R: Tensor, W: Tensor) -> tuple[Tensor, Saved]:
        X, S, Yt = svd(R)
        N = Yt @ W
        return X @ N, (X, S, Yt, N)

    @staticmethod
    def gradient(saved: Saved, G: Tensor) -> Tensor:
        """Return dL/dR = X [(P N^T - N P^T) / (s_i + s_j)] Y^T with P = X^T G, N = Y^T W.

        Only sums of singular values divide: finite for repeated ones, as at R = I, where the
        derivative of the decomposition itself is not.
        """
        X, S, Yt, N = saved
        core = skew_product(X.mT @ G, N).div_(S.unsqueeze(-1) + S.unsqueeze(-2))
        return X @ core @ Yt
