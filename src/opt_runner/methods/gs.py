"""OPT (GS): Q is the Gram-Schmidt orthonormalisation of the rows of R."""

import torch
from torch import Tensor

from opt_runner.methods.base import method_options
from opt_runner.methods.kernels.fused import FusedRotation, Saved
from opt_runner.methods.kernels.linalg import positive_signs, qr_gradient
from opt_runner.methods.kernels.on_gpu import lq, lq_gradient, on_gpu


@method_options
class GramSchmidt(FusedRotation):
    """R = L Q with L lower triangular, diag(L) > 0: Gram-Schmidt on the rows, first row first.

    Gradients grow with the condition of R; R must have full rank, as for the reference.
    """

    colour = "#0072B2"

    @staticmethod
    def apply(R: Tensor, W: Tensor) -> tuple[Tensor, Saved]:
        """Return V = Q W by Householder QR, R^T = H U: Q = D H^T, L = U^T D, D = sign(diag U).

        Same Q as Gram-Schmidt in exact arithmetic, and orthogonal to rounding where the recurrence
        is not. On a GPU by `lq`.
        """
        if on_gpu(R):
            L, Q = lq(R)
            V = Q.to(W.dtype) @ W
            return V, (L, Q, V)
        factors, tau = torch.geqrf(R.mT)
        signs = positive_signs(factors)
        V = signs.unsqueeze(-1) * torch.ormqr(factors, tau, W, left=True, transpose=True)
        return V, (factors, tau, signs, V)

    @staticmethod
    def gradient(saved: Saved, G: Tensor) -> Tensor:
        """Return dL/dR = L^-T T Q with T = triu(G V^T - V G^T, 1); here = U^-1 (D T D) H^T."""
        if on_gpu(G):
            L, Q, V = saved
            return lq_gradient(L, Q, G, V)
        factors, tau, signs, V = saved
        return qr_gradient(factors, tau, signs, G, V)

    def plain(self, R: Tensor, W: Tensor) -> Tensor:
        Q, U = torch.linalg.qr(R.mT)
        return (Q * positive_signs(U).unsqueeze(-2)).mT @ W
