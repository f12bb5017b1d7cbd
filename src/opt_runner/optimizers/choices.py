"""SGD, AdamW, Muon and Lion, with the bounds of their options.

Each takes parameter groups with an `lr` and a `weight_decay` of their own. A group with
`matrices=True` holds weights of hidden layers, or stacks R (k, ...) if it has `stacked=True` too.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from opt_runner.optimizers.joint import Joint, loss_of

Groups = list[dict[str, Any]]
Average = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1)]

# Newton-Schulz of degree 5 towards the polar factor, in bfloat16: as torch.optim.Muon.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class SGD(torch.optim.SGD):
    """SGD with momentum; weight_decay is an L2 term of the loss. The reference's optimizer."""

    def __init__(
        self,
        params: Groups,
        lr: float,
        weight_decay: float,
        momentum: Average = 0.9,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, lr, momentum, 0, weight_decay, nesterov)


class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay: p <- (1 - lr weight_decay) p, then Adam's step."""

    search: ClassVar[Mapping[str, str]] = {
        "optimizer.lr": "tag(log,interval(1e-4,1e-2))",
        "optimizer.weight_decay": "tag(log,interval(1e-3,1))",
        "optimizer.rotation_lr": "tag(log,interval(1e-4,1e-1))",
    }

    def __init__(
        self,
        params: Groups,
        lr: float,
        weight_decay: float,
        betas: tuple[Average, Average] = (0.9, 0.999),
        eps: Positive = 1e-8,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class Lion(Optimizer):
    """Sign of a momentum, with decoupled weight decay.

    p <- (1 - lr weight_decay) p - lr sign(beta1 m + (1 - beta1) g);  m <- beta2 m + (1 - beta2) g

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms" (NeurIPS 2023).
    """

    search: ClassVar[Mapping[str, str]] = {
        "optimizer.lr": "tag(log,interval(1e-5,3e-3))",
        "optimizer.weight_decay": "tag(log,interval(1e-2,10))",
        "optimizer.rotation_lr": "tag(log,interval(1e-5,3e-2))",
    }

    def __init__(
        self,
        params: Groups,
        lr: float,
        weight_decay: float,
        betas: tuple[Average, Average] = (0.9, 0.99),
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = loss_of(closure)
        for group in self.param_groups:
            (beta1, beta2), lr = group["betas"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                m = state["momentum_buffer"]
                p.mul_(1 - lr * group["weight_decay"])
                p.sub_(lr * torch.lerp(p.grad, m, beta1).sign_())
                m.lerp_(p.grad, 1 - beta2)
        return loss


class BesideAdamW(Joint):
    """An optimizer of the matrices of hidden layers and of R, and AdamW for all else.

    of_matrices: takes groups whose parameters all hold matrices. options: its defaults, with the
    `lr` and `weight_decay` that AdamW has as well. betas, eps: of AdamW.
    """

    search: ClassVar[Mapping[str, str]] = AdamW.search

    def __init__(
        self,
        params: Groups,
        of_matrices: type[Optimizer],
        options: dict[str, Any],
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        matrices = [group for group in params if group.get("matrices")]
        others = [group for group in params if not group.get("matrices")]
        parts: list[Optimizer] = []
        if others:
            parts.append(AdamW(others, options["lr"], options["weight_decay"], betas, eps))
        if matrices:
            parts.append(of_matrices(matrices, options))
        super().__init__(parts)


class Muon(BesideAdamW):
    """Muon for the matrices of hidden layers and for R, AdamW for all else.

    m <- momentum m + (1 - momentum) g;  p <- (1 - lr weight_decay) p - lr 0.2 sqrt(max(a, b)) U,
    U (a, b) near the polar factor of m, or with `nesterov` of (1 - momentum) g + momentum m. The
    factor gives U the usual size of an AdamW step, so that both take one lr. A convolution is a
    matrix out x (in k k). Source: Jordan et al., "Muon" (2024); Liu et al., "Muon is Scalable for
    LLM Training" (2025). It is torch.optim.Muon with `match_rms_adamw`, for whole stacks at once.

    betas, eps: of AdamW.
    """

    def __init__(
        self,
        params: Groups,
        lr: float,
        weight_decay: float,
        momentum: Average = 0.95,
        nesterov: bool = True,
        iterations: Annotated[int, Field(gt=0, le=100)] = 5,
        betas: tuple[Average, Average] = (0.9, 0.95),
        eps: Positive = 1e-8,
    ) -> None:
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        options |= {"nesterov": nesterov, "iterations": iterations}
        super().__init__(params, _MuonOfMatrices, options, betas, eps)


class _MuonOfMatrices(Optimizer):
    """Muon for the groups whose parameters all hold matrices."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            momentum, lr = group["momentum"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                m = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
                G = torch.lerp(p.grad, m, momentum) if group["nesterov"] else m
                U = polar_factor(G if group.get("stacked") else G.flatten(1), group["iterations"])
                p.mul_(1 - lr * group["weight_decay"])
                scale = 0.2 * max(U.shape[-2:]) ** 0.5
                p.sub_(lr * scale * U.reshape(p.shape).to(p.dtype))


def polar_factor(G: Tensor, iterations: int = 5, eps: float = 1e-7) -> Tensor:
    """Return X Y^T roughly, for G (..., a, b) = X S Y^T: singular values between 0.7 and 1.2.

    Newton-Schulz: G <- c0 G + (c1 G G^T + c2 (G G^T)^2) G in bfloat16, from G / ||G||_F.
    """
    c0, c1, c2 = _COEFFICIENTS
    tall = G.shape[-2] > G.shape[-1]
    X = (G.mT if tall else G).bfloat16().reshape(-1, *sorted(G.shape[-2:]))
    X = X / torch.linalg.matrix_norm(X, keepdim=True).clamp(min=eps)
    for _ in range(iterations):
        gram = X @ X.mT
        update = torch.baddbmm(gram, gram, gram, beta=c1, alpha=c2)
        X = torch.baddbmm(X, update, X, beta=c0)
    return (X.mT if tall else X).reshape(G.shape)
