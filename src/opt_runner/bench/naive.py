"""Every variant as it is first written down: the definition, differentiated by autograd.

Loops are over vectors, with the inner products of one round in one call: the quickest of the
plain ways to write them.
"""

import torch
from torch import Tensor


def gram_schmidt_loop(R: Tensor) -> Tensor:
    """Gram-Schmidt on the rows of R (d, d), the modified form, which is as quick and loses less
    orthogonality: each row in turn is scaled to length 1 and taken out of those below it."""
    rows: list[Tensor] = []
    rest = R
    for _ in range(len(R)):
        q = rest[0] / rest[0].norm()
        rows.append(q)
        rest = rest[1:] - torch.outer(rest[1:] @ q, q)
    return torch.stack(rows)


def gram_schmidt_qr(R: Tensor) -> Tensor:
    """The same Q by the QR decomposition of R^T and its derivative in PyTorch."""
    H, U = torch.linalg.qr(R.T)
    Q: Tensor = (H * U.diagonal().sign()).T
    return Q


def householder_loop(R: Tensor) -> Tensor:
    """The product of d - 1 reflections I - 2 u u^T, each taking what is left of its column to
    +norm * e1."""
    d = len(R)
    rest = R
    normals: list[Tensor] = []
    for _ in range(d - 1):
        column = rest[:, 0]
        u = torch.cat([column[:1] - column.norm(), column[1:]])
        u = u / u.norm()
        normals.append(u)
        rest = (rest - 2 * torch.outer(u, u @ rest))[1:, 1:]
    Q = torch.eye(d, dtype=R.dtype, device=R.device)
    # From the last reflection on: the first j rows are still those of I.
    for j, u in reversed(list(enumerate(normals))):
        Q = torch.cat([Q[:j], Q[j:] - 2 * torch.outer(u, u @ Q[j:])])
    return Q


def lowdin_svd(R: Tensor) -> Tensor:
    """The polar factor from the singular value decomposition; autograd goes through the vectors."""
    X, _, Yt = torch.linalg.svd(R)
    Q: Tensor = X @ Yt
    return Q


def cayley_inverse(R: Tensor) -> Tensor:
    """(I + A)(I - A)^-1 with the inverse written out, as in the reference."""
    A = R.triu(1) - R.triu(1).T
    eye = torch.eye(len(R), dtype=R.dtype, device=R.device)
    Q: Tensor = (eye + A) @ torch.linalg.inv(eye - A)
    return Q


def penalty(R: Tensor, scale: float = 0.1) -> Tensor:
    """What `or` adds to the loss."""
    eye = torch.eye(len(R), dtype=R.dtype, device=R.device)
    distance: Tensor = torch.linalg.matrix_norm(R @ R.T - eye)
    return scale * distance


@torch.no_grad()
def retraction(
    R: Tensor, M: Tensor, G: Tensor, lr: float, momentum: float = 0.9
) -> tuple[Tensor, Tensor]:
    """A step of ogd on R (d, d) with momentum M and the dense gradient G: the next R and M.

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
