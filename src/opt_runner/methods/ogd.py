"""OPT (OGD): R itself is the rotation, kept on the orthogonal group by its own optimizer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.methods.base import Method, Tensors, method_options
from opt_runner.methods.kernels.retraction_sgd import RetractionSGD
from opt_runner.methods.rotation import SquareRotation, Start

if TYPE_CHECKING:
    from opt_runner.layers import Layer


@method_options
class OrthogonalGradientDescent(SquareRotation):
    """V = R W, R orthogonal at every step: it starts so and `RetractionSGD` keeps it so.

    form: `thin` trains V = R W itself, (d, n), where n < d: R is never built, and a step costs
        O(d^2 n). `reference` trains R (d, d) as the reference does, O(d^3).
    rotation_lr: learning rate of R; rotation_factor: its factor at every milestone.
    plain_weight_decay_scale: L2 of all other weights is scaled by this, as in the reference.
    """

    start: Start = "identity"
    form: Literal["thin", "reference"] = "thin"
    rotation_lr: Annotated[float, Field(gt=0)] = 0.02
    rotation_factor: Annotated[float, Field(gt=0, le=1)] = 0.2
    plain_weight_decay_scale: Annotated[float, Field(ge=0)] = 0.1

    colour: ClassVar[str] = "#E69F00"
    search: ClassVar[Mapping[str, str]] = {
        **Method.search,
        "method.rotation_lr": "tag(log,interval(0.003,3))",
    }
    optimizer_class: ClassVar[type[torch.optim.SGD]] = RetractionSGD

    def __post_init__(self) -> None:
        if self.start == "normal":
            raise ValueError("ogd keeps R orthogonal, so start must be 'identity' or 'orthogonal'")

    def _trains_V(self, W: Tensor) -> bool:
        return self.form == "thin" and W.shape[-1] < W.shape[-2]

    def init(
        self, layer: "Layer", W: Tensor, generator: torch.Generator | None, **fixed: Tensor
    ) -> Tensors:
        R = super().init(layer, W, generator)["R"]
        # Under one name: a stack has the one or the other, of different shapes.
        return {"R": R.to(W) @ W if self._trains_V(W) else R}

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        return R if self._trains_V(W) else R @ W

    def measure(self, W: Tensor, V: Tensor, R: Tensor, **others: Any) -> Tensors:
        """Where V trains: the largest change of w_i . w_j between unit neurons, their own
        lengths included, which is |w_i^T (Q^T Q - I) w_j|."""
        if not self._trains_V(W):
            return super().measure(W, V, R)
        lengths = torch.linalg.vector_norm(W, dim=-2, keepdim=True)
        V, W = V / lengths, W / lengths
        change: Tensor = V.mT @ V - W.mT @ W
        return {"orthogonality_error": change.abs().amax((-2, -1))}

    def optimizer_options(
        self, tensor: str | None, lr: float, weight_decay: float
    ) -> dict[str, Any]:
        if tensor is None:
            return {"lr": lr, "weight_decay": weight_decay * self.plain_weight_decay_scale}
        return {
            "lr": self.rotation_lr,
            "weight_decay": 0.0,
            "retract": self.form,
            "milestone_factor": self.rotation_factor,
        }
