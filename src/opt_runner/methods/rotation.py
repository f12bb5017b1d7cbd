"""The methods that rotate: V = Q(R) W with an orthogonal Q."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from opt_runner.geometry import orthogonality_error
from opt_runner.layers import Layer
from opt_runner.methods.base import MaybeGenerator, Method, Tensors, method_options, searched
from opt_runner.methods.neurons import Neurons, prepared

Start = Literal["normal", "identity", "orthogonal"]


@method_options
class Rotation(Method):
    """V = Q(R) W with an R of any shape: subclass it and give `rotate`, and `init` with that R.

    train_w: whether W trains beside R; else it is fixed.
    neurons: how W starts: as the network has `drawn` it, with neurons of equal length
        (`normalised`), or with its neurons moved to where their energy is least (`refined`).
    """

    train_w: bool = False
    neurons: Neurons = "drawn"

    @property
    def trains_weight(self) -> bool:
        return self.train_w

    @property
    def replaces_W(self) -> bool:
        """Return True if V has nothing of W but its start."""
        return False

    def turns(self, layer: Layer) -> bool:
        return self.train_w or layer.d > 1

    def initial_weight(self, layer: Layer, W: Tensor, generator: MaybeGenerator) -> Tensor:
        return prepared(W, self.neurons)

    family = "OPT"
    search: ClassVar[Mapping[str, str]] = {
        **Method.search,
        "optimizer.rotation_lr": "tag(log,interval(0.003,3))",
    }

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        """Return Q(R) W for R (k, ...) and W (k, d, n), differentiable in R."""
        raise NotImplementedError(f"{type(self).__name__} must define rotate(R, W)")

    def rotate_all(self, Rs: Sequence[Tensor], Ws: Sequence[Tensor]) -> list[Tensor]:
        """Return `rotate` for stacks of several sizes."""
        return [self.rotate(R, W) for R, W in zip(Rs, Ws, strict=True)]

    def weight(self, W: Tensor, R: Tensor) -> Tensor:
        return self.rotate(R, W)

    def weights(self, Ws: Sequence[Tensor], tensors: Sequence[Tensors]) -> list[Tensor]:
        if type(self).weight is not Rotation.weight:  # a subclass does more than rotate
            return super().weights(Ws, tensors)
        return self.rotate_all([of_stack["R"] for of_stack in tensors], Ws)

    def measure(self, W: Tensor, V: Tensor, R: Tensor, **others: Any) -> Tensors:
        k, d, _ = W.shape
        eye = torch.eye(d, dtype=W.dtype, device=W.device)
        Q = self.rotate(R, eye.expand(k, d, d).contiguous())
        return {"orthogonality_error": orthogonality_error(Q)}


@method_options
class SquareRotation(Rotation):
    """V = Q(R) W with R (d, d) for each layer.

    start: R starts as I (`identity`), with entries from N(0, 1) as in the paper's code (`normal`),
    or as a random orthogonal matrix, uniform over the group (`orthogonal`). From N(0, 1) the first
    steps turn Q less, because the rows of R have the length sqrt(d).
    """

    start: Start = "identity"

    search = searched(Rotation.search, start="normal,identity")

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        return {"R": initial_square(self.start, len(W), generator)}

    def at_identity(self) -> Self:
        return type(self)(**{**vars(self), "start": "identity"})


def initial_square(start: Start, d: int, generator: MaybeGenerator) -> Tensor:
    """Return R (d, d) on the CPU, see `SquareRotation`."""
    if start == "identity":
        return torch.eye(d)
    R = torch.empty(d, d)
    if start == "orthogonal":
        return torch.nn.init.orthogonal_(R, generator=generator)
    return R.normal_(generator=generator)
