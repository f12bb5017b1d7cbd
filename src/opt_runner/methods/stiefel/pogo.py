"""POGO: a step along the manifold, then one Newton-Schulz step back to it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from opt_runner.methods.base import method_options
from opt_runner.methods.kernels.stiefel_sgd import StiefelSGD
from opt_runner.methods.stiefel.orthogonal_r import OrthonormalU


class PogoSGD(StiefelSGD):
    """SGD, but a parameter group with `retract` moves its stacks U (k, d, n) by POGO.

    N the momentum of G = dL/dU:

        M = U - lr (N U^T U - U N^T U) / 2;  U <- 3/2 M - 1/2 M M^T M

    The second step squares what the first leaves of orthogonality, which is O(lr^2).
    """

    def move(self, X: Tensor, G: Tensor, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        N = self.momentum(X, G, group, state)
        M = X - group["lr"] / 2 * (N @ (X.mT @ X) - X @ (N.mT @ X))
        X.copy_(1.5 * M - 0.5 * M @ (M.mT @ M))


@method_options
class Pogo(OrthonormalU):
    """V = U S, U moved by `PogoSGD`: five products and no solve.

    Source: "POGO" (arXiv 2602.14656); code github.com/adrianjav/pogo, with its default of 1/2 for
    the second step; the published option to solve for that number is left out. Departs: columns
    are orthonormal, published rows.
    """

    colour = "#8F1E46"
    optimizer_class = PogoSGD
