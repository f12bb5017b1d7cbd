"""Bases of methods whose tensors are moved by an optimizer of the method's own."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import MaybeGenerator, Method, Options, Tensors, method_options


def searched(interval: str) -> Mapping[str, str]:
    """Return what a fair comparison tunes, `rotation_lr` in this interval among it."""
    return {**Method.search, "method.rotation_lr": f"tag(log,interval({interval}))"}


@method_options
class Moved(Method):
    """A method whose tensors are moved by `optimizer_class`, with a learning rate of their own.

    rotation_lr: learning rate of these tensors.
    rotation_factor: its factor at every milestone.
    """

    rotation_lr: Annotated[float, Field(gt=0, le=1e6)] = 0.02
    rotation_factor: Annotated[float, Field(gt=0, le=1)] = 0.1

    # Fields that the parameter group gets as well.
    group_keys: ClassVar[Sequence[str]] = ()
    search: ClassVar[Mapping[str, str]] = searched("0.003,3")

    @property
    def move_options(self) -> dict[str, Any]:
        """Return what the parameter group tells `optimizer_class` beside the learning rate."""
        return {name: getattr(self, name) for name in self.group_keys}

    def optimizer_options(self, tensor: str | None, lr: float, weight_decay: float) -> Options:
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

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        return {"R": W.clone()}

    def weight(self, W: Tensor, R: Tensor, **fixed: Tensor) -> Tensor:
        return R
