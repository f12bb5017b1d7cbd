"""How the fixed neurons W start: as drawn, of equal length, or where their energy is least."""

from typing import Literal

import torch
from torch import Tensor

Neurons = Literal["drawn", "normalised", "refined"]

_STEPS = 500
_LEAST = 1e-6  # a distance: two equal neurons would push each other with no limit and no direction
_LONGEST_STEP = 0.1  # in radians, of the neuron that moves furthest; it falls to 0


@torch.no_grad()
def prepared(W: Tensor, neurons: Neurons) -> Tensor:
    """Return W (d, n) itself, W with neurons of root mean square length, or `refined` W."""
    if neurons == "drawn":
        return W
    if neurons == "refined":
        return refined(W)
    lengths = _lengths(W)
    return W * (lengths.square().mean().sqrt() / lengths)


@torch.no_grad()
def refined(W: Tensor) -> Tensor:
    """Return W (d, n) with neurons turned to a least hyperspherical energy, lengths kept.

    For n <= d + 1 the least energy is known, for every s at once: the simplex, w_i . w_j =
    -1 / (n - 1) between unit neurons (Cohn, Kumar, "Universally optimal distribution of points on
    spheres", 2007). The simplex nearest to W is taken. For n > d + 1 a local minimum of E_1 is
    looked for, by 500 steps down its gradient. On the CPU in float64: every device starts alike.
    """
    U = W.detach().cpu().double()
    lengths = _lengths(U)
    U = U / lengths
    d, n = U.shape
    U = _simplex(U) if 1 < n <= d + 1 else _descended(U)
    return (U * lengths).to(W)


def _simplex(U: Tensor) -> Tensor:
    """Return the regular simplex of n <= d + 1 unit columns that is nearest to U (d, n).

    Its Gram matrix is n / (n - 1) (I - 1 1^T / n), so it is sqrt(n / (n - 1)) times a partial
    isometry that maps 1 to 0: the polar factor of U, on the space orthogonal to 1.
    """
    n = U.shape[-1]
    orthogonal_to_1 = torch.linalg.svd(U.new_ones(1, n))[2][1:]  # its rows are a basis
    X, _, Yt = torch.linalg.svd(U @ orthogonal_to_1.mT, full_matrices=False)
    return (n / (n - 1)) ** 0.5 * (X @ Yt @ orthogonal_to_1)


def _descended(U: Tensor) -> Tensor:
    if len(U) == 1:  # there is nowhere to turn to
        return U
    for step in range(_STEPS):
        distance = torch.cdist(U.mT, U.mT, compute_mode="donot_use_mm_for_euclid_dist")
        inverse = distance.clamp(min=_LEAST).fill_diagonal_(torch.inf).pow(-3)
        force = U * inverse.sum(0) - U @ inverse  # minus the gradient of sum 1 / distance
        force -= U * (U * force).sum(0)
        longest = _lengths(force).max()
        U = U + _LONGEST_STEP * (1 - step / _STEPS) / longest * force
        U = U / _lengths(U)
    return U


def _lengths(U: Tensor) -> Tensor:
    """Return the lengths of the columns of U (d, n), at least a tiny number, to divide by."""
    return torch.linalg.vector_norm(U, dim=0).clamp(min=1e-30)
