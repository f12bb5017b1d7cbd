"""Bases of methods whose tensors are moved by an optimizer of the method's own."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import (
    MaybeGenerator,
    Method,
    Options,
    Tensors,
    method_options,
    searched,
)


@method_options
class Moved(Method):
    """A method whose tensors are moved by `optimizer_class`, with a learning rate of their own.

    rotation_lr: learning rate of these tensors.
    rotation_factor: its factor at every milestone.
    """

    rotation_lr: Annotated[float, Field(gt=0, le=1e6)] = 0.02
    rotation_factor: Annotated[float, Field(gt=0, le=1)] = 0.1

    # Options of the method that `optimizer_class` reads from the parameter group.
    group_keys: ClassVar[Sequence[str]] = ()
    search = searched(rotation_lr="tag(log,interval(0.003,3))")

    def copies(self, W: Tensor) -> bool:
        return True

    def optimizer_options(self, tensor: str | None, lr: float, weight_decay: float) -> Options:
        if tensor is None:
            return super().optimizer_options(tensor, lr, weight_decay)
        return {
            "lr": self.rotation_lr,
            "weight_decay": 0.0,
            "retract": True,
            "milestone_factor": self.rotation_factor,
            **{name: getattr(self, name) for name in self.group_keys},
        }


@method_options
class MovedV(Moved):
    """V (d, n) starts as W and trains, moved by `optimizer_class`.

    Its name is R, as in every method that owns a matrix.
    """

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        return {"R": W.clone()}

    def weight(self, W: Tensor, R: Tensor, **fixed: Tensor) -> Tensor:
        return R
