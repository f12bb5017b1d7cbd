"""Every variant by its definition, differentiated by autograd. R and Q(R) are (d, d).

Loops are over vectors, with the inner products of a round in one call: the fastest plain loops.
"""

import torch
from torch import Tensor


def gram_schmidt_loop(R: Tensor) -> Tensor:
    """Return Q by modified Gram-Schmidt: q_i = r_i / |r_i|, r_j <- r_j - (r_j . q_i) q_i, j > i."""
    rows: list[Tensor] = []
    rest = R
    for _ in range(len(R)):
        q = rest[0] / rest[0].norm()
        rows.append(q)
        rest = rest[1:] - torch.outer(rest[1:] @ q, q)
    return torch.stack(rows)


def gram_schmidt_qr(R: Tensor) -> Tensor:
    """Return the same Q by R^T = H U, Q = sign(diag U) H^T, and PyTorch's derivative of QR."""
    H, U = torch.linalg.qr(R.T)
    Q: Tensor = (H * U.diagonal().sign()).T
    return Q


def householder_loop(R: Tensor) -> Tensor:
    """Return Q = H_1 ... H_{d-1}, H_j = I - 2 u_j u_j^T.

    u_j is along x - |x| e1, where x is the reflected column j from its diagonal on.
    """
    d = len(R)
    rest = R
    normals: list[Tensor] = []
    for _ in range(d - 1):
        x = rest[:, 0]
        u = torch.cat([x[:1] - x.norm(), x[1:]])
        u = u / u.norm()
        normals.append(u)
        rest = (rest - 2 * torch.outer(u, u @ rest))[1:, 1:]
    Q = torch.eye(d, dtype=R.dtype, device=R.device)
    # From the last reflection on: the first j rows are still those of I.
    for j, u in reversed(list(enumerate(normals))):
        Q = torch.cat([Q[:j], Q[j:] - 2 * torch.outer(u, u @ Q[j:])])
    return Q


def lowdin_svd(R: Tensor) -> Tensor:
    """Return Q = X Y^T of R = X S Y^T; autograd goes through the singular vectors."""
    X, _, Yt = torch.linalg.svd(R)
    Q: Tensor = X @ Yt
    return Q


def cayley_inverse(R: Tensor) -> Tensor:
    """Return Q = (I + A)(I - A)^-1, A = triu(R, 1) - triu(R, 1)^T, as in the reference."""
    A = R.triu(1) - R.triu(1).T
    eye = torch.eye(len(R), dtype=R.dtype, device=R.device)
    Q: Tensor = (eye + A) @ torch.linalg.inv(eye - A)
    return Q


def penalty(R: Tensor, scale: float = 0.1) -> Tensor:
    """Return the penalty of `or`: scale ||R R^T - I||_F."""
    eye = torch.eye(len(R), dtype=R.dtype, device=R.device)
    distance: Tensor = torch.linalg.matrix_norm(R @ R.T - eye)
    return scale * distance


@torch.no_grad()
def retraction(
    R: Tensor, M: Tensor, G: Tensor, lr: float, momentum: float = 0.9
) -> tuple[Tensor, Tensor]:
    """Return the next R and M of ogd's step with momentum M and the dense gradient G.

    Source: Li, Fuxin, Todorovic, "Efficient Riemannian Optimization on the Stiefel Manifold via
    the Cayley Transform" (ICLR 2020), algorithm 1, two fixed-point steps.
    """
    M = momentum * M - G
    H = M @ R.T - R @ (R.T @ M @ R.T) / 2
    K = H - H.T
    M = K @ R
    a = min(lr, 1 / (float(torch.linalg.matrix_norm(K)) + 1e-8))
    Y = R + a * M
    for _ in range(2):
        Y = R + a / 2 * K @ (R + Y)
    return Y, M
