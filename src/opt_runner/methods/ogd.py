"""OPT (OGD): R itself is the rotation, kept on the orthogonal group by its own optimizer."""

from typing import Literal

from torch import Tensor

from opt_runner.methods.base import method_options
from opt_runner.methods.kernels.retraction_sgd import RetractionSGD
from opt_runner.methods.stiefel.orthogonal_r import OrthogonalR


@method_options
class OrthogonalGradientDescent(OrthogonalR):
    """V = R W, R orthogonal at every step: it starts so and `RetractionSGD` keeps it so.

    form: `thin` trains V = R W itself, (d, n), where n < d: R is never built, and a step costs
        O(d^2 n). `reference` trains R (d, d) as the reference does, O(d^3).
    """

    form: Literal["thin", "reference"] = "thin"

    colour = "#E69F00"
    optimizer_class = RetractionSGD
    group_keys = ("form",)

    def trains_V(self, W: Tensor) -> bool:
        return self.form == "thin" and super().trains_V(W)
