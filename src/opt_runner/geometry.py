"""What OPT keeps: the angles between a layer's neurons, and with them its hyperspherical energy.

Neurons are the columns of W (d x n). Source: Liu et al., "Learning towards Minimum Hyperspherical
Energy" (NeurIPS 2018) and "Orthogonal Over-Parameterized Training" (CVPR 2021), section 3.
"""

import torch
from torch import Tensor


def hyperspherical_energy(W: Tensor, s: float = 1.0) -> Tensor:
    """E_s = sum over i != j of ||w_i - w_j||^-s for s > 0, of log(1 / ||w_i - w_j||) for s = 0.

    w_i are the columns of W (..., d, n) scaled to unit length; the result has the shape `...`.
    Distances are taken in float64 from differences, not from cosines: two almost equal neurons,
    where the energy is largest, would otherwise lose every digit.

    Raises ValueError for s < 0. A zero column has no direction: the energy is then NaN.
    """
    if s < 0:
        raise ValueError(f"hyperspherical energy is defined for s >= 0, got s = {s}")
    neurons = W.double().mT
    neurons = neurons / torch.linalg.vector_norm(neurons, dim=-1, keepdim=True)
    distance = torch.cdist(neurons, neurons, compute_mode="donot_use_mm_for_euclid_dist")
    n = neurons.shape[-2]
    i, j = torch.triu_indices(n, n, offset=1, device=W.device)
    pairs = distance[..., i, j]
    energy = pairs.pow(-s) if s > 0 else -pairs.log()
    return 2 * energy.sum(-1)


def angles(W: Tensor) -> Tensor:
    """Angles in radians between the pairs i < j of columns of W (..., d, n): (..., n (n-1) / 2)."""
    neurons = torch.nn.functional.normalize(W.double(), dim=-2)
    n = W.shape[-1]
    i, j = torch.triu_indices(n, n, offset=1, device=W.device)
    return (neurons.mT @ neurons)[..., i, j].clamp(-1, 1).arccos()


def orthogonality_error(Q: Tensor) -> Tensor:
    """Largest entry of |Q^T Q - I| for Q (..., d, d): the result has the shape `...`."""
    eye = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    return (Q.mT @ Q - eye).abs().amax((-2, -1))
