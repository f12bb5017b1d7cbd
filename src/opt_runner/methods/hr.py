"""OPT (HR): Q is a product of d - 1 Householder reflections built from the columns of R."""

import torch
from torch import Tensor

from opt_runner.methods.base import method_options
from opt_runner.methods.kernels.fused import FusedRotation, Saved
from opt_runner.methods.kernels.linalg import positive_signs, qr_gradient
from opt_runner.methods.kernels.on_gpu import lq, lq_gradient, on_gpu


@method_options
class Householder(FusedRotation):
    """R = Q U: each reflection maps the rest of its column to +norm * e1.

    U is upper triangular with a positive diagonal but for the last entry, whose sign makes
    det Q = (-1)^(d-1): d - 1 reflections, each of determinant -1.
    """

    colour = "#009E73"

    @staticmethod
    def apply(R: Tensor, W: Tensor) -> tuple[Tensor, Saved]:
        """Return V = Q W from LAPACK's R = H U': Q = H D, U = D U', with D of Note [Signs of hr].

        Finite at R = I, where the reflections written out divide zero by zero. On a GPU by `lq`,
        with the last sign from the determinant.
        """
        if on_gpu(R):
            L, Qt = lq(R.mT)  # R = Qt^T L^T
            signs = torch.ones_like(W[..., 0])
            signs[..., -1] = torch.linalg.slogdet(Qt).sign * (-1) ** (R.shape[-1] - 1)
            return Qt.mT.to(W.dtype) @ (signs.unsqueeze(-1) * W), (L, Qt, signs, W)
        factors, tau = torch.geqrf(R)
        signs = _reflection_signs(factors, tau)
        V = torch.ormqr(factors, tau, signs.unsqueeze(-1) * W, left=True)
        return V, (factors, tau, signs, W)

    @staticmethod
    def gradient(saved: Saved, G: Tensor) -> Tensor:
        """Return dL/dR = Q T U^-T with P = Q^T G, T = tril(P W^T - W P^T, -1).

        Transposed, as U'^-1 D T^T D H^T, it is what `gs` computes.
        """
        if on_gpu(G):
            L, Qt, signs, W = saved
            return lq_gradient(L, Qt, signs.unsqueeze(-1) * W, Qt.to(G.dtype) @ G).mT
        factors, tau, signs, W = saved
        P = signs.unsqueeze(-1) * torch.ormqr(factors, tau, G, left=True, transpose=True)
        return qr_gradient(factors, tau, signs, W, P).mT

    def plain(self, R: Tensor, W: Tensor) -> Tensor:
        signs = _reflection_signs(*torch.geqrf(R.detach()))
        return torch.linalg.qr(R).Q @ (signs.unsqueeze(-1) * W)


def _reflection_signs(factors: Tensor, tau: Tensor) -> Tensor:
    """Return the signs D.

    Note [Signs of hr]: all of U's diagonal but the last entry is positive. LAPACK's reflections are
    those with tau != 0, and det H = (-1)^(their number). The last sign makes det(H D) = (-1)^(d-1).
    """
    signs = positive_signs(factors)
    d = tau.shape[-1]
    others = signs[..., :-1].prod(-1)
    made = (tau != 0).sum(-1)
    signs[..., -1] = others * (1 - 2 * ((made + d - 1) % 2)).to(others.dtype)
    return signs
