"""S-OPT: only a random subset of the rows of W is rotated, a new subset every round."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import MaybeGenerator, Tensors, method_options, searched
from opt_runner.methods.cayley import Cayley
from opt_runner.methods.gs import GramSchmidt
from opt_runner.methods.hr import Householder
from opt_runner.methods.ls import Lowdin
from opt_runner.methods.rotation import Rotation, SquareRotation, initial_square
from opt_runner.methods.rounds import InRounds

_INNER = {"gs": GramSchmidt(), "hr": Householder(), "ls": Lowdin(), "cayley": Cayley()}


@method_options
class StochasticOPT(InRounds, SquareRotation):
    """Each round draws a set S of rows per layer and trains Q(R) on them: V[S] = Q(R) W[S].

    At the end of a round W[S] <- Q(R) W[S] for good, a new S is drawn, R starts again and its
    momentum is cleared. The first layer is rotated whole and never starts again.

    inner: the map Q(R). share: |S| / d, at least 2 rows (hr: 3). The reference takes 400 rounds of
    750 steps.
    """

    inner: Literal["gs", "hr", "ls", "cayley"] = "gs"
    share: Annotated[float, Field(gt=0, le=1)] = 0.25

    without_budget = 750  # as the reference
    colour = "#56B4E9"
    search = searched(Rotation.search, share="tag(log,interval(0.1,1.0))")

    def kind(self, layer: Layer) -> int:
        """Return |S|, the number of chosen rows of d."""
        if layer.first:
            return layer.d
        # One row has nothing to rotate.
        size = min(layer.d, max(2, round(self.share * layer.d)))
        if self.inner == "hr" and size % 2 == 0:
            # det Q = (-1)^(|S|-1): with |S| even Q(I) flips a row, and so would every round.
            size = max(size - 1, min(3, layer.d))
        return size

    def draw(self, layer: Layer, W: Tensor, generator: torch.Generator) -> Tensors:
        """Return S, if it is not all rows."""
        size = self.kind(layer)
        if size == layer.d:
            return {}
        return {"S": torch.randperm(layer.d, generator=generator)[:size]}

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        return {"R": initial_square(self.start, self.kind(layer), generator)}

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        return _INNER[self.inner].rotate(R, W)

    def weight(self, W: Tensor, R: Tensor, S: Tensor | None = None) -> Tensor:
        return self.weights([W], [{"R": R} if S is None else {"R": R, "S": S}])[0]

    def weights(self, Ws: Sequence[Tensor], tensors: Sequence[Tensors]) -> list[Tensor]:
        indices = [_index(W, of_stack.get("S")) for W, of_stack in zip(Ws, tensors, strict=True)]
        turned = _INNER[self.inner].rotate_all(
            [of_stack["R"] for of_stack in tensors],
            [W if S is None else W.gather(1, S) for W, S in zip(Ws, indices, strict=True)],
        )
        return [
            V if S is None else W.scatter(1, S, V)
            for W, S, V in zip(Ws, indices, turned, strict=True)
        ]

    def measure(self, W: Tensor, V: Tensor, R: Tensor, **others: Any) -> Tensors:
        return super().measure(W[:, : R.shape[-1]], V, R)  # Q is as large as R


def _index(W: Tensor, S: Tensor | None) -> Tensor | None:
    """Return S (k, s) as (k, s, n), for gather and scatter along the rows of W (k, d, n)."""
    return None if S is None else S.unsqueeze(-1).expand(-1, -1, W.shape[-1])
