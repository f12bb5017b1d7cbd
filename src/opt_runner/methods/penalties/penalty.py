"""What the penalties on W share."""

from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import Coefficient, Method, method_options, searched

# (share of the budget, weight from there on): epochs 20, 50, 70 and 120 of 200.
_FADING = ((0.6, 0.0), (0.35, 1e-6), (0.25, 1e-4), (0.1, 1e-3))


@method_options
class Penalty(Method):
    """V = W, and the loss gains a term for each layer.

    classifier: whether the network's last layer has its term too.
    """

    classifier: bool = True

    family = "penalties"

    def covers(self, layer: Layer) -> bool:
        return self.classifier or not layer.output


@method_options
class FadingPenalty(Penalty):
    """A penalty of orthogonality, `scale` times the distance of W^T W from I.

    fades: the weight falls to 1e-3, 1e-4, 1e-6 and 0 of `scale` after 10, 25, 35 and 60% of the
        budget, the epochs 20, 50, 70 and 120 of 200 in the published code.
    steps: of the budget; None: a run's own, and in a program of your own no fading.

    Where n > d, W W^T - I is taken, as published: the smaller of the two. Their squared Frobenius
    norms differ by n - d, a constant.

    Source: Bansal, Chen, Wang, "Can we gain more from orthogonality regularizations in training
    deep CNNs?" (NeurIPS 2018); code github.com/VITA-Group/Orthogonality-in-CNNs, Wide-Resnet,
    which has SRIP alone. Its weight of 1e-2 and its fading are the defaults of all four here.
    """

    scale: Coefficient = 1e-2
    fades: bool = True
    steps: Annotated[int, Field(gt=0, le=10**9)] | None = None

    search = searched(scale="tag(log,interval(1e-4,0.1))")

    @property
    def follows_steps(self) -> bool:
        return self.fades and self.steps is not None

    def scaled_to(self, steps: int) -> Self:
        return self if self.steps is not None else type(self)(**{**vars(self), "steps": steps})

    def weight_at(self, step: int) -> float:
        """Return the weight of the penalty at step = 1, 2, ..."""
        if not self.fades or self.steps is None:
            return self.scale
        share = (step - 1) / self.steps
        return self.scale * next((factor for start, factor in _FADING if share >= start), 1.0)

    def penalty(self, layer: Layer, W: Tensor, V: Tensor, step: int) -> Tensor | None:
        weight = self.weight_at(step)
        return weight * self.distance(W).sum() if weight else None

    def distance(self, W: Tensor) -> Tensor:
        """Return the distance of W (k, d, n) from orthogonality: (k,)."""
        raise NotImplementedError(f"{type(self).__name__} must define distance(W)")


def off_identity(W: Tensor) -> Tensor:
    """Return W^T W - I for W (k, d, n), or W W^T - I if n > d."""
    gram = W.mT @ W if W.shape[-1] <= W.shape[-2] else W @ W.mT
    return gram - torch.eye(gram.shape[-1], dtype=W.dtype, device=W.device)
