"""A rotation whose R is not square: blocks along the diagonal."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.errors import UserError
from opt_runner.methods import Cayley, Rotation, method_options


@method_options
class BlockDiagonal(Rotation):
    """V = diag(Q_1, ..., Q_b) W with b Cayley transforms of m x m: R is (b, m, m), b = d / m.

    block: m, which must divide the d of every layer.
    """

    block: Annotated[int, Field(gt=0)] = 8

    label = "Block-diagonal"
    colour = "#66CCEE"

    def init(self, layer, W: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        if layer.d % self.block:
            raise UserError(
                f"method.block={self.block} does not divide d = {layer.d} of {layer.name}"
            )
        return {"R": torch.zeros(layer.d // self.block, self.block, self.block)}

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        k, d, n = W.shape
        blocks = W.reshape(-1, self.block, n)
        return Cayley().rotate(R.flatten(0, 1), blocks).reshape(k, d, n)
