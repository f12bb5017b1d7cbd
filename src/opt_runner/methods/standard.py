"""Plain training: no rotation, W itself trains. The baseline every method is compared with."""

from opt_runner.methods.base import Method, method_options


@method_options
class Standard(Method):
    """V = W, and W trains by SGD."""

    colour = "#777777"
