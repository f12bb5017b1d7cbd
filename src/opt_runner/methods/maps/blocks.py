"""Rotations along the diagonal: many small Cayley transforms at once."""

import torch
from torch import Tensor

from opt_runner.methods.cayley import Cayley

# See Note [LU one at a time on the CPU].
_BATCHED_BELOW = 128


def divisor_near(d: int, wanted: int) -> int:
    """Return the divisor of d nearest to `wanted`, above 1 unless d is 1.

    Of two that are as near, the larger.

    Blocks of 1 x 1 would rotate nothing: a d that is prime is one block.
    """
    divisors = [b for b in range(2, d + 1) if d % b == 0] or [1]
    return min(divisors, key=lambda b: (abs(b - wanted), -b))


def cayley_blocks(R: Tensor) -> Tensor:
    """Return Q(R) = (I + A)(I - A)^-1, A = triu(R, 1) - triu(R, 1)^T, for R (..., b, b)."""
    b = R.shape[-1]
    if b >= _BATCHED_BELOW:
        flat = R.reshape(-1, b, b)
        eye = torch.eye(b, dtype=R.dtype, device=R.device).expand_as(flat)
        return Cayley().rotate(flat, eye.contiguous()).reshape(R.shape)
    upper = R.triu(1)
    A = upper - upper.mT
    eye = torch.eye(b, dtype=R.dtype, device=R.device)
    # Both factors commute.
    return torch.linalg.solve_ex(eye - A, eye + A)[0]


def neumann_blocks(R: Tensor, terms: int) -> Tensor:
    """Return (I + A)(I + A + ... + A^terms), the series of the Cayley transform.

    Q^T Q = I holds for small A alone.
    """
    upper = R.triu(1)
    A = upper - upper.mT
    eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    total = eye
    for _ in range(terms):
        total = eye + A @ total
    return (eye + A) @ total


def act(Q: Tensor, W: Tensor) -> Tensor:
    """Return diag(Q_1, ..., Q_r) W for Q (k, r, b, b) and W (k, r b, n)."""
    k, r, b, _ = Q.shape
    return (Q @ W.reshape(k, r, b, -1)).reshape(W.shape)
