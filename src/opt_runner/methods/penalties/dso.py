"""DSO: double soft orthogonality."""

from torch import Tensor

from opt_runner.methods.base import method_options
from opt_runner.methods.penalties.penalty import FadingPenalty, off_identity


@method_options
class DoubleSoftOrthogonality(FadingPenalty):
    """scale * sum over layers of ||W^T W - I||_F^2 + ||W W^T - I||_F^2.

    The two differ by d - n, whatever W is: this is `so` of twice the scale plus a constant. It is
    here because it is in the literature.

    Source: Bansal et al. (2018), from their text; their code has SRIP alone.
    """

    colour = "#4FB286"

    def distance(self, W: Tensor) -> Tensor:
        d, n = W.shape[-2:]
        return 2 * off_identity(W).square().sum((-2, -1)) + abs(d - n)
