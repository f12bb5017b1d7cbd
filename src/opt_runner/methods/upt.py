"""UPT: over-parametrised training without orthogonality, OPT's own ablation."""

from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import method_options
from opt_runner.methods.rotation import Rotation, SquareRotation


@method_options
class UnconstrainedTraining(SquareRotation):
    """V = R W, and R (d, d) trains as it likes: nothing holds it orthogonal.

    With `train_w` it is one of the four of the paper's question: {free R, orthogonal R} x
    {W fixed, W trains}. What is measured as |R^T R - I| tells how far it has gone.

    Source: "unconstrained over-parameterized training" of OPT (Liu et al., CVPR 2021), whose start
    of R and learning rate are not known to us. R starts at I; from N(0, 1) it would multiply the
    length of V by sqrt(d).
    """

    family = "ablation"
    colour = "#6B4423"
    search = Rotation.search

    def turns(self, layer: Layer) -> bool:
        return True

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        return R @ W
