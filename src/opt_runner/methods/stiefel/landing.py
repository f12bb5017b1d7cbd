"""Landing: steps along the manifold and towards it at once, with no retraction."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from opt_runner.methods.base import Coefficient, method_options
from opt_runner.methods.kernels.stiefel_sgd import StiefelSGD
from opt_runner.methods.stiefel.orthogonal_r import OrthonormalU


class LandingSGD(StiefelSGD):
    """SGD, but a parameter group with `retract` moves its stacks U (k, d, n) by landing.

    E = U^T U - I, N the momentum of G = dL/dU, lambda the group's `attraction`:

        F = (N U^T U - U N^T U) / 2;  U <- U - a (F + lambda U E)

    with a = min(lr, 1 / (2 lambda), (b + sqrt(b^2 + g max(1/2 - e, 0))) / (g + 1e-7)) for
    e = ||E||_F, g = ||F||_F^2, b = lambda e (1 - e): it keeps e below 1/2.
    """

    def move(self, X: Tensor, G: Tensor, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        attraction = group["attraction"]
        N = self.momentum(X, G, group, state)
        E = X.mT @ X
        F = (N @ E - X @ (N.mT @ X)) / 2
        E.diagonal(dim1=-2, dim2=-1).sub_(1)
        e = torch.linalg.matrix_norm(E)
        g = torch.linalg.matrix_norm(F).square()
        b = attraction * e * (1 - e)
        safe = (b + (b.square() + g * (0.5 - e).clamp(min=0)).sqrt()) / (g + 1e-7)
        limit = min(group["lr"], 1 / (2 * attraction)) if attraction else group["lr"]
        X.sub_(safe.clamp(max=limit)[:, None, None] * (F + attraction * (X @ E)))


@method_options
class Landing(OrthonormalU):
    """V = U S, and U is drawn to U^T U = I rather than kept there.

    attraction: lambda, 1 as published.

    Source: Ablin, Peyre, "Fast and accurate optimization on the orthogonal manifold without
    retraction" (AISTATS 2022); code github.com/pierreablin/landing, whose later safe step is used.
    Departs: momentum is of dL/dU, published of the d x d matrix skew(dL/dU U^T); columns are
    orthonormal, published rows.
    """

    attraction: Coefficient = 1.0

    colour = "#E86F4D"
    optimizer_class = LandingSGD
    group_keys = ("attraction",)
