"""Plain training: no rotation, W itself trains. The baseline every variant is compared with."""

from typing import ClassVar

from torch import Tensor

from opt_runner.methods.base import Method, method_options


@method_options
class Standard(Method):
    """V = W, and W trains by SGD."""

    rotates: ClassVar[bool] = False

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        return W
