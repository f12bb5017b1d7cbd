"""OPT (OGD): R itself is the rotation, kept on the orthogonal group by its own optimizer."""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.methods.base import Method, Start, method_options


class RetractionSGD(torch.optim.SGD):
    """SGD, but a parameter group with `retract=True` moves along the orthogonal group.

    Momentum descent with a Cayley retraction by fixed-point steps, for R (k, d, d), G = dL/dR,
    momentum m and learning rate lr:

        M <- m M - G;  H = M R^T - 1/2 R (R^T M R^T);  K = H - H^T;  M <- K R
        a = min(lr, 1 / (||K||_F + 1e-8)), for each R of the stack
        Y <- R + a M;  Y <- R + a/2 K (R + Y);  R <- R + a/2 K (R + Y)

    Source: Li, Fuxin, Todorovic, "Efficient Riemannian Optimization on the Stiefel Manifold via
    the Cayley Transform" (ICLR 2020). No weight decay acts on R: its norm is fixed.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group.get("retract"):
                for R in group["params"]:
                    if R.grad is not None:
                        self._retract(R, group["lr"], group["momentum"])
                        R.grad = None  # so that SGD's own step passes over it
        super().step()
        return loss

    def _retract(self, R: Tensor, lr: float, momentum: float) -> None:
        G = R.grad
        assert G is not None
        state = self.state[R]
        M = state["momentum_buffer"].mul_(momentum).sub_(G) if state else -G
        MRt = M @ R.mT
        H = MRt - R @ (R.mT @ MRt) / 2
        K = H - H.mT
        M = K @ R
        norm = torch.linalg.matrix_norm(K, keepdim=True)
        a = (1 / (norm + 1e-8)).clamp(max=lr)
        Y = R + a * M
        for _ in range(2):
            Y = R + a / 2 * (K @ (R + Y))
        R.copy_(Y)
        state["momentum_buffer"] = M


@method_options
class OrthogonalGradientDescent(Method):
    """V = R W, R orthogonal at every step: it starts so and `RetractionSGD` keeps it so.

    rotation_lr: learning rate of R; rotation_factor: its factor at every milestone.
    plain_weight_decay_scale: L2 of all other weights is scaled by this, as in the reference.
    """

    start: Start = "identity"
    rotation_lr: Annotated[float, Field(gt=0)] = 0.02
    rotation_factor: Annotated[float, Field(gt=0, le=1)] = 0.2
    plain_weight_decay_scale: Annotated[float, Field(ge=0)] = 0.1

    optimizer_class: ClassVar[type[torch.optim.SGD]] = RetractionSGD

    def __post_init__(self) -> None:
        if self.start == "normal":
            raise ValueError("ogd keeps R orthogonal, so start must be 'identity' or 'orthogonal'")

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        return R @ W

    def plain_group(self, lr: float, weight_decay: float) -> dict[str, Any]:
        return {"lr": lr, "weight_decay": weight_decay * self.plain_weight_decay_scale}

    def rotation_group(self, lr: float, weight_decay: float) -> dict[str, Any]:
        return {
            "lr": self.rotation_lr,
            "weight_decay": 0.0,
            "retract": True,
            "milestone_factor": self.rotation_factor,
        }
