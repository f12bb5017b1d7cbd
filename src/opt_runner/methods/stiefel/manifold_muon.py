"""Manifold Muon: the steepest tangent step under the spectral norm, found by dual ascent."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from opt_runner.methods.base import method_options, searched
from opt_runner.methods.kernels.cayley_transform import msign
from opt_runner.methods.kernels.stiefel_sgd import StiefelSGD
from opt_runner.methods.stiefel.orthogonal_r import SpectralU

_RATE = 0.01  # of the dual ascent; it falls to 0 over its steps
_TOLERANCE = 1e-6


class ManifoldMuonSGD(StiefelSGD):
    """SGD, but a parameter group with `retract` moves its stacks U (k, d, n), G = dL/dU.

        D <- -1/4 (U^T G + G^T U);  for j = 0, 1, ... up to the group's `ascent`:
            A = msign(G + 2 U D);  H = U^T A + A^T U;  stop where the RMS of H is below 1e-6
            D <- D - 0.01 (1 - j / ascent) H
        U <- msign(U - lr A)

    A is the direction of unit spectral norm that descends most among those tangent to U^T U = I.
    """

    def move(self, X: Tensor, G: Tensor, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        D = -(X.mT @ G + G.mT @ X) / 4
        A = msign(G + 2 * X @ D)
        for step in range(group["ascent"]):
            H = X.mT @ A + A.mT @ X
            rising = H.square().mean((-2, -1), keepdim=True).sqrt() >= _TOLERANCE
            if not rising.any():
                break
            D = D - _RATE * (1 - step / group["ascent"]) * rising * H
            A = msign(G + 2 * X @ D)
        X.copy_(msign(X - group["lr"] * A))


@method_options
class ManifoldMuon(SpectralU):
    """V = U S, U moved by `ManifoldMuonSGD`. A step takes up to `ascent` polar factors.

    ascent: most steps of the dual ascent, 100 as published.

    Source: Bernstein, "Modular manifolds" (Thinking Machines Lab, 2025), code
    github.com/thinking-machines-lab/manifolds at 89dcae5. Departs: exact polar factors, published
    Newton-Schulz steps; S of W is kept by default, published S = I; rotation_lr, published 0.1.
    """

    ascent: Annotated[int, Field(gt=0, le=10_000)] = 100

    colour = "#A33B20"
    optimizer_class = ManifoldMuonSGD
    group_keys = ("ascent",)
    search = searched(rotation_lr="tag(log,interval(0.001,0.3))")
