"""Two trained tensors of different sizes a layer."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.geometry import orthogonality_error
from opt_runner.methods import Cayley, Method, method_options


@method_options
class TwoSided(Method):
    """V = Q(R) W Q(P) with R (d, d) and P (n, n), Q the Cayley transform: W keeps its spectrum.

    spread: R and P start with entries from N(0, spread^2).
    """

    spread: Annotated[float, Field(ge=0)] = 0.1

    label = "Two-sided"
    colour = "#228833"

    def init(self, layer, W: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {
            "R": self.spread * torch.randn(layer.d, layer.d, generator=generator),
            "P": self.spread * torch.randn(layer.n, layer.n, generator=generator),
        }

    def weight(self, W: Tensor, R: Tensor, P: Tensor) -> Tensor:
        return Cayley().rotate(R, W) @ rotation(P)

    def measure(self, W: Tensor, V: Tensor, R: Tensor, P: Tensor) -> dict[str, Tensor]:
        errors = [orthogonality_error(rotation(R)), orthogonality_error(rotation(P))]
        return {"orthogonality_error": torch.maximum(*errors)}


def rotation(R: Tensor) -> Tensor:
    """Q(R)."""
    return Cayley().rotate(R, torch.eye(R.shape[-1]).to(R).expand_as(R))
