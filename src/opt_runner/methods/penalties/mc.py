"""MC: mutual coherence."""

from torch import Tensor

from opt_runner.methods.base import method_options
from opt_runner.methods.penalties.penalty import FadingPenalty, off_identity


@method_options
class MutualCoherence(FadingPenalty):
    """scale * sum over layers of the largest entry of |W^T W - I|.

    Source: Bansal et al. (2018), from their text; their code has SRIP alone. Their norm is written
    ||.||_inf and stands for the coherence max |w_i . w_j|: the largest entry, not row sum.
    """

    colour = "#8FD3B6"

    def distance(self, W: Tensor) -> Tensor:
        return off_identity(W).abs().amax((-2, -1))
