"""Bases of methods whose tensors are moved by an optimizer of the method's own."""

from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.methods.base import Method, Tensors, method_options

if TYPE_CHECKING:
    from opt_runner.layers import Layer

Rate = Annotated[float, Field(gt=0, le=1e6)]


@method_options
class Moved(Method):
    """A method whose tensors are moved by `optimizer_class`, with a learning rate of their own.

    rotation_lr: learning rate of these tensors.
    rotation_factor: its factor at every milestone.
    """

    rotation_lr: Rate = 0.02
    rotation_factor: Annotated[float, Field(gt=0, le=1)] = 0.1

    @property
    def move_options(self) -> dict[str, Any]:
        """Return what the parameter group tells `optimizer_class` beside the learning rate."""
        return {}

    def optimizer_options(
        self, tensor: str | None, lr: float, weight_decay: float
    ) -> dict[str, Any]:
        if tensor is None:
            return super().optimizer_options(tensor, lr, weight_decay)
        return {
            "lr": self.rotation_lr,
            "weight_decay": 0.0,
            "retract": True,
            "milestone_factor": self.rotation_factor,
            **self.move_options,
        }


@method_options
class MovedV(Moved):
    """V (d, n) starts as W and trains, moved by `optimizer_class`.

    Its name is R, as in every method that owns a matrix.
    """

    def init(
        self, layer: "Layer", W: Tensor, generator: torch.Generator | None, **fixed: Tensor
    ) -> Tensors:
        return {"R": W.clone()}

    def weight(self, W: Tensor, R: Tensor, **fixed: Tensor) -> Tensor:
        return R
