"""S-OPT: only a random subset of the rows of W is rotated, a new subset every round."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.methods.base import Tensors, method_options
from opt_runner.methods.cayley import Cayley
from opt_runner.methods.gs import GramSchmidt
from opt_runner.methods.hr import Householder
from opt_runner.methods.ls import Lowdin
from opt_runner.methods.rotation import Rotation, SquareRotation, Start, initial_square

if TYPE_CHECKING:
    from opt_runner.layers import Layer
    from opt_runner.methods.stack import Stack

_INNER = {"gs": GramSchmidt(), "hr": Householder(), "ls": Lowdin(), "cayley": Cayley()}
_REFERENCE_ROUND = 750
_SHORTEST_ROUND = 20


@method_options
class StochasticOPT(SquareRotation):
    """Each round draws a set S of rows per layer and trains Q(R) on them: V[S] = Q(R) W[S].

    At the end of a round W[S] <- Q(R) W[S] for good, a new S is drawn, R starts again and its
    momentum is cleared. The first layer is rotated whole and never starts again.

    inner: the map Q(R). share: |S| / d. round_steps: steps a round, or None for the budget divided
    by `rounds`, but at least 20 steps, as momentum needs some to build up anew. The reference
    takes 400 rounds of 750 steps.
    """

    start: Start = "identity"
    inner: Literal["gs", "hr", "ls", "cayley"] = "gs"
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    rounds: Annotated[int, Field(gt=0, le=10**9)] = 400
    round_steps: Annotated[int, Field(gt=0, le=10**9)] | None = None

    colour: ClassVar[str] = "#56B4E9"
    search: ClassVar[Mapping[str, str]] = {
        **Rotation.search,
        "method.share": "tag(log,interval(0.1,1.0))",
    }

    def kind(self, layer: "Layer") -> int:
        """Return |S|, the number of chosen rows of d."""
        if layer.first:
            return layer.d
        size = max(1, round(self.share * layer.d))
        # det Q = (-1)^(|S|-1) for hr: with |S| even Q(I) flips a row, and so would every round.
        return size - 1 if self.inner == "hr" and size % 2 == 0 else size

    def draw(self, layer: "Layer", W: Tensor, generator: torch.Generator) -> Tensors:
        """Return S, if it is not all rows."""
        size = self.kind(layer)
        if size == layer.d:
            return {}
        return {"S": torch.randperm(layer.d, generator=generator)[:size]}

    def init(
        self, layer: "Layer", W: Tensor, generator: torch.Generator | None, **fixed: Tensor
    ) -> Tensors:
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

    def after_step(
        self, stacks: "Sequence[Stack]", step: int, optimizer: torch.optim.Optimizer
    ) -> None:
        round_, rest = divmod(step, self.steps_a_round)
        if rest:
            return
        for stack in stacks:
            if "S" in stack.tensors:
                stack.merge()
                stack.restart(round_)
                stack.clear_momentum(optimizer)

    @property
    def steps_a_round(self) -> int:
        return self.round_steps or _REFERENCE_ROUND

    def scaled_to(self, steps: int) -> Self:
        if self.round_steps is not None:
            return self
        steps_a_round = max(_SHORTEST_ROUND, steps // self.rounds)
        return type(self)(**{**vars(self), "round_steps": steps_a_round})


def _index(W: Tensor, S: Tensor | None) -> Tensor | None:
    """Return S (k, s) as (k, s, n), for gather and scatter along the rows of W (k, d, n)."""
    return None if S is None else S.unsqueeze(-1).expand(-1, -1, W.shape[-1])
