"""SO: soft orthogonality."""

from torch import Tensor

from opt_runner.methods.base import method_options
from opt_runner.methods.penalties.penalty import FadingPenalty, off_identity


@method_options
class SoftOrthogonality(FadingPenalty):
    """scale * sum over layers of ||W^T W - I||_F^2.

    Source: Bansal et al. (2018), from their text; their code has SRIP alone.
    """

    colour = "#1B7F5C"

    def distance(self, W: Tensor) -> Tensor:
        return off_identity(W).square().sum((-2, -1))
