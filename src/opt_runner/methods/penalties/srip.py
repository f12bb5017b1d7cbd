"""SRIP: the spectral norm of W^T W - I, by one power step."""

import torch
from torch import Tensor

from opt_runner.methods.base import method_options
from opt_runner.methods.penalties.penalty import FadingPenalty, off_identity


@method_options
class SpectralRestrictedIsometry(FadingPenalty):
    """scale * sum over layers of ||T v||^2 with T = W^T W - I, v = T b / ||T b||.

    b has entries from U(0, 1), new ones every step; ||T v|| is at most sigma, T's spectral norm,
    and near it. Gradients pass through v.

    squared: as in the published PyTorch code; false: sigma itself, as in the paper's text.

    Source: Bansal et al. (2018), code Wide-Resnet/train_n.py. Its code for SVHN and ImageNet takes
    b from N(0, 1) and always W W^T.
    """

    squared: bool = True

    colour = "#2E9E9E"

    def distance(self, W: Tensor) -> Tensor:
        T = off_identity(W)
        b = torch.rand(*T.shape[:-1], 1, dtype=W.dtype, device=W.device)
        v = T @ b
        # T b = 0 for an orthogonal W: there is nothing to penalise, and no direction.
        v = v / torch.linalg.vector_norm(v, dim=-2, keepdim=True).clamp(min=1e-30)
        squares = (T @ v).square().sum((-2, -1))
        return squares if self.squared else (squares + 1e-30).sqrt()
