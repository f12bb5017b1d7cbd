"""The methods of OPT proper: one square R a layer, V = Q(R) W."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from opt_runner.geometry import orthogonality_error
from opt_runner.methods.base import Method, Tensors, method_options

if TYPE_CHECKING:
    from opt_runner.opt.layers import Layer

Start = Literal["normal", "identity", "orthogonal"]


@method_options
class Rotation(Method):
    """V = Q(R) W with R (d, d) for each layer. Subclass it and give `rotate`.

    start: R starts with entries from N(0, 1) (`normal`), as I (`identity`), or as a random
    orthogonal matrix, uniform over the group (`orthogonal`).
    """

    start: Start = "normal"

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        """Q(R) W for R (k, d, d) and W (k, d, n), differentiable in R."""
        raise NotImplementedError(f"{type(self).__name__} must define rotate(R, W)")

    def rotate_all(self, Rs: Sequence[Tensor], Ws: Sequence[Tensor]) -> list[Tensor]:
        """`rotate` for stacks of several sizes."""
        return [self.rotate(R, W) for R, W in zip(Rs, Ws, strict=True)]

    def init(
        self, layer: "Layer", W: Tensor, generator: torch.Generator | None, **fixed: Tensor
    ) -> Tensors:
        return {"R": initial_square(self.start, W.shape[-2], generator).to(W)}

    def weight(self, W: Tensor, R: Tensor) -> Tensor:
        return self.rotate(R, W)

    def weights(self, Ws: Sequence[Tensor], tensors: Sequence[Tensors]) -> list[Tensor]:
        return self.rotate_all([of_stack["R"] for of_stack in tensors], Ws)

    def measure(self, W: Tensor, V: Tensor, R: Tensor, **fixed: Any) -> Tensors:
        eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
        Q = self.rotate(R, eye.expand_as(R).contiguous())
        return {"orthogonality_error": orthogonality_error(Q)}


def initial_square(start: Start, d: int, generator: torch.Generator | None) -> Tensor:
    """R (d, d) on the CPU, see `Rotation`."""
    if start == "identity":
        return torch.eye(d)
    R = torch.empty(d, d)
    if start == "orthogonal":
        return torch.nn.init.orthogonal_(R, generator=generator)
    return R.normal_(generator=generator)
