"""Plain training: no rotation, W itself trains. The baseline every method is compared with."""

from typing import ClassVar

from opt_runner.methods.base import Method, method_options


@method_options
class Standard(Method):
    """V = W, and W trains by SGD."""

    colour: ClassVar[str] = "#777777"
