"""SGD whose subclasses move some parameters in a way of their own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from opt_runner.methods.kernels.shards import on_own_part
from opt_runner.optimizers.joint import loss_of


class StiefelSGD(torch.optim.SGD):
    """SGD that moves the parameters of groups with a `retract` by `move`.

    No weight decay acts on them: their norm is fixed, or as good as fixed.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = loss_of(closure)
        for group in self.param_groups:
            if group.get("retract"):
                for X in group["params"]:
                    if X.grad is not None:
                        on_own_part(self.move, X, X.grad, group, self.state[X])
                        X.grad = None  # so that SGD's own step passes over it
        _sgd_step(self)
        return loss

    def move(self, X: Tensor, G: Tensor, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        """Change X (k, d, m) in place, G = dL/dX; `state` lasts from step to step.

        G may be overwritten. Under FSDP2 all are this process's matrices alone.
        """
        raise NotImplementedError

    @staticmethod
    def momentum(X: Tensor, G: Tensor, group: Mapping[str, Any], state: dict[str, Any]) -> Tensor:
        """Return m N + G for the former N, which is 0 at first; the state keeps it."""
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(X)
        return state["momentum_buffer"].mul_(group["momentum"]).add_(G)


def _sgd_step(optimizer: torch.optim.SGD) -> None:
    """Take SGD's own step without its hooks.

    PyTorch puts hooks around the step of a class once it has an instance. From within the step of
    a derived class they would be called twice.
    """
    step = torch.optim.SGD.step
    (step.__wrapped__ if hasattr(step, "hooked") else step)(optimizer)  # type: ignore[attr-defined]


def raised_inverse(gram: Tensor) -> Tensor:
    """Return (X^T X)^-1 from X^T X, the diagonal raised by 1e-4 of its mean.

    X may have dependent columns. Along these nothing drifts.
    """
    raise_by = 1e-4 * gram.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
    raised = gram + torch.diag_embed(raise_by.expand(gram.shape[:-1]))
    return torch.cholesky_inverse(torch.linalg.cholesky_ex(raised)[0])
