"""SGD that rotates a frame V (d, n) exactly, with nothing of size d x d.

Note [The frame's algebra]. `ogd` keeps a skew K (d, d) as momentum and turns V by its Cayley
transform Q = (I - h K)^-1 (I + h K). K is always N V^T - V N^T for some N (d, n):

- A gradient adds -1/2 (G V^T - V G^T) to it, which is N <- N - G / 2.
- Q commutes with K, so K = Q K Q^T = (Q N) (Q V)^T - (Q V) (Q N)^T: Q N is the N of K and Q V.

With C = V^T V, T = V^T N and D = N^T N, K [N V] = [N V] J where J = [[T, C], [-D, -T^T]]. So Q V
is in the span of N and V, and the second block column of (I - h J)^-1 (I + h J) gives it:

    Q V = N 2 h L F + V (2 F - I),  L = (I - h T)^-1 C,  F = (I + Y)^-1,  Y = h T^T + h^2 D L

J is Hamiltonian, so its Cayley transform is symplectic. N is not unique, N - V S is as good for
symmetric S, and Q N is N (2 F - I)^-T = N (2 (I - Y)^-1 - I)^T but for such an S.

First V S is subtracted from N, with the symmetric S = sym(C^-1 T), which makes V^T N nearly skew.
This part of N pulls at the lengths of the neurons and the angles between them, which no rotation
changes: it would pile up in N, and N would lose the digits of K.

All of it is exact: nothing leaves the group, momentum is carried along as it is. Products
d x n x n of a step: T, D (symmetric: half), two of Q V, two of N; C now and then. Of n x n x n: 22.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from opt_runner.methods.kernels.linalg import add_one_, gram
from opt_runner.methods.kernels.stiefel_sgd import StiefelSGD, raised_inverse

# Rounding moves V^T V by some 1e-7 a step.
_RESTORED_EVERY = 8


class FrameSGD(StiefelSGD):
    """SGD, but a parameter group with `retract` rotates its stacks V (k, d, n).

    With G = dL/dV:

        N <- m N - G / 2;  K = N V^T - V N^T
        a = min(lr, 1 / (||K||_F + 1e-8))
        V <- Q V,  K <- Q K Q^T = K,  Q = (I - a/2 K)^-1 (I + a/2 K)

    computed as in Note [The frame's algebra].

    Every 8 steps rounding is turned back, V <- V (I + C0^-1 (C0 - V^T V) / 2) where C0 is V^T V at
    the start.

    State of a matrix: N (d, n), C0 and its inverse (n, n).
    """

    def move(self, X: Tensor, G: Tensor, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        V = X
        if not state:
            state["steps"] = 0
            state["momentum_buffer"] = torch.zeros_like(V)
            state["gram"] = V.mT @ V
            state["inverse"] = raised_inverse(state["gram"])
        state["steps"] += 1
        N = state["momentum_buffer"].mul_(group["momentum"]).sub_(G, alpha=0.5)
        restored = state["steps"] % _RESTORED_EVERY == 0
        C = gram(V.mT) if restored else state["gram"]
        T = V.mT @ N
        S = state["inverse"] @ T
        S = (S + S.mT) / 2
        skewer = T - C @ S
        A, B, Y = cayley_of_frame(C, skewer, gram(N.mT) - S @ T - skewer.mT @ S, group["lr"])
        of_N, of_V = A, B - S @ A
        if restored:
            E = state["inverse"] @ (state["gram"] - C) / 2
            of_N, of_V = of_N + of_N @ E, of_V + of_V @ E
        # Not baddbmm, which takes seven times as long as two products on the CPU. G is not needed
        # any more and has the size of what is.
        carried = N @ Y
        state["momentum_buffer"] = carried.sub_(torch.bmm(V, S @ Y, out=G))
        turned = V @ of_V
        torch.add(turned, torch.bmm(N, of_N, out=G), out=V)


def cayley_of_frame(C: Tensor, T: Tensor, D: Tensor, lr: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return A, B, Y (k, n, n) with Q V = N A + V B; N Y is the N of the same K, see `FrameSGD`.

    Computed from C = V^T V, T = V^T N and D = N^T N, with V^T N as good as skew:
    ||K||_F^2 = 2 tr(D C) - 2 tr(T T).

    As h ||K||_F <= 1/2, h T and Y have eigenvalues below 0.18 and 0.31, and the inverses of
    I -+ h T and I -+ Y, by those of I - (h T)^2 and I - Y^2, are exact to 1e-12 and 1e-16.
    """
    squared = 2 * ((D * C).sum((-2, -1), True) - (T * T.mT).sum((-2, -1), True))
    h = (1 / (squared.clamp(min=0).sqrt() + 1e-8)).clamp(max=lr) / 2
    hT = h * T
    L = C + hT @ C
    L = _near_identity_inverse(hT @ hT, factors=3) @ L
    Y = hT.mT + h * h * (D @ L)
    E = _near_identity_inverse(Y @ Y, factors=4)
    P = Y @ E
    F, of_N = E - P, 2 * (E + P)  # (I + Y)^-1, 2 (I - Y)^-1
    B = 2 * F
    for matrix in (B, of_N):
        matrix.diagonal(dim1=-2, dim2=-1).sub_(1)
    return 2 * h * (L @ F), B, of_N.mT


def _near_identity_inverse(Z: Tensor, factors: int) -> Tensor:
    """Return (I - Z)^-1 = (I + Z)(I + Z^2)(I + Z^4)..., with so many factors.

    By products, as LAPACK takes longer for matrices of this size, and batched LU on the CPU is not
    to be had: see Note [LU one at a time on the CPU].
    """
    X = add_one_(Z.clone())
    for _ in range(factors - 1):
        Z = Z @ Z
        X = X + X @ Z
    return X
