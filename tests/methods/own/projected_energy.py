"""A penalty on W: nothing is rotated, W trains."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from opt_runner.methods import Method, method_options


@method_options
class ProjectedEnergy(Method):
    """The loss gains `scale` times the mean over pairs of 1 / ||u_i - u_j||^2, for each layer.

    u_i is P w_i at unit length; P (dimensions x d) has entries from N(0, 1), new ones every step.
    """

    scale: Annotated[float, Field(ge=0)] = 1.0
    dimensions: Annotated[int, Field(gt=0)] = 30

    label = "Projected energy"
    colour = "#AA3377"

    def penalty(self, layer, W: Tensor, V: Tensor, step: int) -> Tensor:
        P = torch.randn(self.dimensions, layer.d, device=W.device)
        u = normalize(P @ W, dim=-2)
        squared = 2 - 2 * u.mT @ u
        i, j = torch.triu_indices(layer.n, layer.n, offset=1, device=W.device)
        return self.scale * squared[:, i, j].reciprocal().mean(-1).sum()
