"""SGD that moves some parameters along the orthogonal group, by Cayley retraction.

Source: Li, Fuxin, Todorovic, "Efficient Riemannian Optimization on the Stiefel Manifold via the
Cayley Transform" (ICLR 2020).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from opt_runner.methods.kernels.stiefel_sgd import StiefelSGD, raised_inverse


class RetractionSGD(StiefelSGD):
    """SGD, but a parameter group with `retract` turns its stacks X (k, d, m) by rotations.

    `form="reference"`, X = R square, G = dL/dR, momentum m, learning rate lr:

        M <- m M - G;  H = M R^T - 1/2 R (R^T M R^T);  K = H - H^T;  M <- K R

    `form="thin"`, X = R or X = V = R W, G = dL/dX. K itself carries the momentum, and a row
    space of n columns is all that is touched:

        K <- m K - 1/2 (G X^T - X G^T)

    For orthogonal R both are one up to how momentum is carried from one R to the next, which
    differs by m a^2 K^3 / 2. Then, in both, for each matrix of the stack

        a = min(lr, 1 / (||K||_F + 1e-8))
        Y <- X + a K X;  twice Y <- X + a/2 K (X + Y);  X <- Y

    The fixed-point steps leave the group by O((a ||K||)^4) a step; the thin form turns that back,
    see `_restore`. No weight decay acts: the norm of X is fixed.
    """

    def move(self, X: Tensor, G: Tensor, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        move = _move_reference if group["form"] == "reference" else _move_thin
        move(X, G, group["lr"], group["momentum"], state)


def _move_reference(
    R: Tensor, G: Tensor, lr: float, momentum: float, state: dict[str, Any]
) -> None:
    M = state["momentum_buffer"].mul_(momentum).sub_(G) if state else -G
    MRt = M @ R.mT
    H = MRt - R @ (R.mT @ MRt) / 2
    K = H - H.mT
    state["momentum_buffer"] = K @ R
    R.copy_(_turn(R, K, lr))


def _move_thin(X: Tensor, G: Tensor, lr: float, momentum: float, state: dict[str, Any]) -> None:
    if not state:
        d = X.shape[-2]
        state["skew"] = X.new_zeros(*X.shape[:-2], d, d)
        state["gram"] = X.mT @ X
        state["inverse"] = raised_inverse(state["gram"])
    # One product of rank 2m: -1/2 (G X^T - X G^T).
    left, right = torch.cat([G, X], dim=-1), torch.cat([X, -G], dim=-1)
    K = state["skew"].baddbmm_(left, right.mT, beta=momentum, alpha=-0.5)
    X.copy_(_restore(_turn(X, K, lr), state["gram"], state["inverse"]))


def _turn(X: Tensor, K: Tensor, lr: float) -> Tensor:
    """Return the Cayley transform of a K on X, by two fixed-point steps from the tangent."""
    norm = torch.linalg.vector_norm(K, dim=(-2, -1), keepdim=True)
    a = (1 / (norm + 1e-8)).clamp(max=lr)
    Y = X + a * (K @ X)
    for _ in range(2):
        Y = X + a / 2 * (K @ (X + Y))
    return Y


def _restore(X: Tensor, gram: Tensor, inverse: Tensor) -> Tensor:
    """Return X (I + E), which has the Gram matrix `gram`: E = gram^-1 (gram - X^T X) / 2.

    Each of the two corrections squares the error; where a ||K|| is at its limit of 1 a step may
    leave the group by some percent.
    """
    for _ in range(2):
        X = X + X @ (inverse @ (gram - X.mT @ X)) / 2
    return X
