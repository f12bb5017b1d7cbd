"""OPT without a d x d matrix: V = Q W is turned directly, by rotations of the span that moves."""

from opt_runner.methods.base import method_options
from opt_runner.methods.kernels.frame_sgd import FrameSGD
from opt_runner.methods.stiefel.orthogonal_r import OrthogonalR


@method_options
class Frame(OrthogonalR):
    """V (d, n) trains, and `FrameSGD` moves it by rotations alone: V = Q W at every step.

    {Q W : Q orthogonal} is the set of all V with V^T V = W^T W, so this is what every OPT variant
    trains, without over-parametrising it; it is `ogd` with the exact Cayley transform. A step
    costs seven products d x n x n, the optimizer keeps d x n numbers. Where n >= d, R trains (d is
    small there).

    Source: derived for this package; direction and step limit are `ogd`'s, Li, Fuxin, Todorovic
    (ICLR 2020); Cayley transforms in the span: Wen, Yin, "A feasible method for optimization with
    orthogonality constraints" (2013).
    """

    family = "manifold"
    colour = "#B8321A"
    optimizer_class = FrameSGD
