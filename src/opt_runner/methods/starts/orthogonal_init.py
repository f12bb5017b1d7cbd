"""W starts orthogonal and trains plainly."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import MaybeGenerator, Method, method_options


@method_options
class OrthogonalInit(Method):
    """W^T W = gain^2 I at the start (W W^T where n > d), uniform over such W; then V = W trains.

    gain: sqrt(2) for ReLU networks: neurons are then as long as N(0, 2/d) makes them.

    Source: Saxe, McClelland, Ganguli (ICLR 2014), as `torch.nn.init.orthogonal_`.
    """

    gain: Annotated[float, Field(gt=0, le=1e6)] = 2**0.5

    family = "starts"
    colour = "#A89F91"

    def initial_weight(self, layer: Layer, W: Tensor, generator: MaybeGenerator) -> Tensor:
        return orthogonal(layer.d, layer.n, self.gain, generator).to(W)


def orthogonal(d: int, n: int, gain: float, generator: MaybeGenerator) -> Tensor:
    """Return gain times a random (d, n) matrix with orthonormal columns, or rows where n > d."""
    # Rows are torch's neurons. A QR decomposition wants float32 or more, whatever the default is.
    dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
    W = torch.empty(n, d, dtype=dtype)
    return torch.nn.init.orthogonal_(W, gain, generator=generator).T
