"""S-OPT: only a random subset of the rows of W is rotated, a new subset every round."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field
from torch import Tensor

from opt_runner.methods.base import Method, Start, method_options
from opt_runner.methods.cayley import Cayley
from opt_runner.methods.gs import GramSchmidt
from opt_runner.methods.hr import Householder
from opt_runner.methods.ls import Lowdin

_INNER = {"gs": GramSchmidt(), "hr": Householder(), "ls": Lowdin(), "cayley": Cayley()}
_REFERENCE_ROUND = 750
_SHORTEST_ROUND = 20


@method_options
class StochasticOPT(Method):
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
    rounds: Annotated[int, Field(gt=0)] = 400
    round_steps: Annotated[int, Field(gt=0)] | None = None

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        return _INNER[self.inner].rotate(R, W)

    def rotate_all(self, Rs: Sequence[Tensor], Ws: Sequence[Tensor]) -> list[Tensor]:
        return _INNER[self.inner].rotate_all(Rs, Ws)

    def rows(self, d: int, first: bool) -> int:
        if first:
            return d
        rows = max(1, round(self.share * d))
        # det Q = (-1)^(|S|-1) for hr: with |S| even Q(I) flips a row, and so would every round.
        return rows - 1 if self.inner == "hr" and rows % 2 == 0 else rows

    @property
    def steps_a_round(self) -> int:
        return self.round_steps or _REFERENCE_ROUND

    def scaled_to(self, steps: int) -> Self:
        if self.round_steps is not None:
            return self
        steps_a_round = max(_SHORTEST_ROUND, steps // self.rounds)
        return type(self)(**{**vars(self), "round_steps": steps_a_round})
