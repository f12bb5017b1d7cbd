"""SOAP: Adam in the slowly turning eigenbases of the gradients' second moments."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from opt_runner.optimizers.choices import Average, BesideAdamW, Groups, Positive


class SOAP(BesideAdamW):
    """SOAP for the matrices of hidden layers and for R, AdamW for all else.

    For g (a, b), with A the moving average of g g^T, B of g^T g, and their eigenbases P and Q:

        m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) (P^T g Q)^2
        p <- (1 - lr weight_decay) p - lr P (P^T m Q / (sqrt(v) + eps)) Q^T,  with both corrected

    A and B take in g after the step with the weight 1 - beta2. P and Q are eigenvectors at first.
    Every `every` steps they make one step of orthogonal iteration, QR(A P), with columns in the
    order of their Rayleigh quotients. The first gradient only starts A and B: there is no step. A
    convolution is a matrix out x (in k k). A side longer than `longest` keeps the identity.

    Source: Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam" (ICLR 2025), and
    nikhilvyas/SOAP@a1e5535, without its options `merge_dims` and `precondition_1d`.

    eps: also of AdamW.
    """

    def __init__(
        self,
        params: Groups,
        lr: float,
        weight_decay: float,
        betas: tuple[Average, Average] = (0.95, 0.95),
        eps: Positive = 1e-8,
        every: Annotated[int, Field(gt=0, le=10**9)] = 10,
        longest: Annotated[int, Field(gt=0, le=10**9)] = 10_000,
    ) -> None:
        options = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        options |= {"every": every, "longest": longest}
        super().__init__(params, _SOAPOfMatrices, options, betas, eps)


class _SOAPOfMatrices(Optimizer):
    """SOAP for the groups whose parameters all hold matrices."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    g = p.grad if group.get("stacked") else p.grad.flatten(1)
                    update = self._update(self.state[p], g, group)
                    if update is not None:
                        p.mul_(1 - group["lr"] * group["weight_decay"])
                        p.sub_(group["lr"] * update.reshape(p.shape))

    def _update(self, state: dict[str, Any], g: Tensor, group: dict[str, Any]) -> Tensor | None:
        """Return the update, None at the first gradient, and take the gradient in."""
        (beta1, beta2), longest = group["betas"], group["longest"]
        if not state:
            state["step"] = torch.zeros(())  # a tensor, as a round of `sopt` sets the state to 0
            state["momentum_buffer"], state["second_moment"] = g.new_zeros(2, *g.shape)
            for name, side in (("left", g.shape[-2]), ("right", g.shape[-1])):
                shape = (*g.shape[:-2], side, side) if side <= longest else (0,)
                state[name], state[f"{name}_basis"] = g.new_zeros(2, *shape)
        state["step"] += 1
        t = int(state["step"]) - 1
        if t == 0:
            _average(state, g, beta2)
            for name in _sides(state):
                eigenvectors = torch.linalg.eigh(state[name].float()).eigenvectors
                state[f"{name}_basis"] = eigenvectors.flip(-1).to(g.dtype)
            return None
        m = state["momentum_buffer"].lerp_(g, 1 - beta1)
        v = state["second_moment"].lerp_(_to(state, g).square(), 1 - beta2)
        scaled = _to(state, m) / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + group["eps"])
        update = _back(state, scaled)
        _average(state, g, beta2)
        if t % group["every"] == 0:
            for name in _sides(state):
                _turn(state, name)
        return update


def _sides(state: dict[str, Any]) -> list[str]:
    """Return the sides that have a basis."""
    return [name for name in ("left", "right") if state[name].numel()]


def _average(state: dict[str, Any], g: Tensor, beta: float) -> None:
    """Take the gradient into A and B."""
    for name in _sides(state):
        state[name].lerp_(g @ g.mT if name == "left" else g.mT @ g, 1 - beta)


def _to(state: dict[str, Any], g: Tensor) -> Tensor:
    """Return P^T g Q."""
    sides = _sides(state)
    g = state["left_basis"].mT @ g if "left" in sides else g
    return g @ state["right_basis"] if "right" in sides else g


def _back(state: dict[str, Any], g: Tensor) -> Tensor:
    """Return P g Q^T."""
    sides = _sides(state)
    g = state["left_basis"] @ g if "left" in sides else g
    return g @ state["right_basis"].mT if "right" in sides else g


def _turn(state: dict[str, Any], name: str) -> None:
    """Bring a basis nearer to the eigenvectors, largest first, and `second_moment` in its order."""
    basis, v = state[f"{name}_basis"], state["second_moment"]
    quotients = (basis * (state[name] @ basis)).sum(-2)
    order = quotients.argsort(-1, descending=True)
    columns = order.unsqueeze(-2).expand_as(basis)
    basis = basis.gather(-1, columns)
    if name == "left":
        state["second_moment"] = v.gather(-2, order.unsqueeze(-1).expand_as(v))
    else:
        state["second_moment"] = v.gather(-1, order.unsqueeze(-2).expand_as(v))
    state[f"{name}_basis"] = torch.linalg.qr((state[name] @ basis).float()).Q.to(basis.dtype)
