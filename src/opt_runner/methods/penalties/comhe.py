"""CoMHE: the energy of neurons that are projected at random."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import Coefficient, method_options, searched
from opt_runner.methods.penalties.mhe import pair_energy
from opt_runner.methods.penalties.penalty import Penalty


@method_options
class CompressiveMinimumEnergy(Penalty):
    """`mhe` in half space with power 2 of P W, averaged over random P.

    P (dimensions, d) has entries from N(0, 1), new ones every step. The first layer is not
    projected, and the classifier is neither that nor in half space, as published.

    projections: how many P.
    hidden_weight, output_weight: of a hidden layer and of the classifier.

    Source: Lin et al., "Regularizing neural networks via minimizing hyperspherical energy" (CVPR
    2020); code github.com/rmlin/CoMHE, random_projection/architecture.py. Of its three projections
    the random one, with which the authors' logs are best; an earlier state of the code has 100 in
    the place of the hidden weight.
    """

    dimensions: Annotated[int, Field(gt=0, le=100_000)] = 40
    projections: Annotated[int, Field(gt=0, le=10_000)] = 20
    hidden_weight: Coefficient = 1.0
    output_weight: Coefficient = 10.0

    colour = "#5B8DEF"
    search = searched(hidden_weight="tag(log,interval(0.01,10))")

    def kind(self, layer: Layer) -> tuple[bool, bool]:
        return layer.first, layer.output

    def penalty(self, layer: Layer, W: Tensor, V: Tensor, step: int) -> Tensor | None:
        if layer.n < 2 or layer.d < 2:  # in one dimension all neurons are parallel
            return None
        if layer.output:
            return self.output_weight * pair_energy(W, 2, angular=False, half=False).sum()
        projected = W if layer.first else self._projected(W)
        means = pair_energy(projected, 2, angular=False, half=True)
        return self.hidden_weight * len(W) * means.mean()

    def _projected(self, W: Tensor) -> Tensor:
        """Return P W for each P: (k * projections, dimensions, n)."""
        k, d, n = W.shape
        P = torch.randn(self.projections * self.dimensions, d, dtype=W.dtype, device=W.device)
        return (P @ W).reshape(k * self.projections, self.dimensions, n)
