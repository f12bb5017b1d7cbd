"""The base of methods that train in rounds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field
from torch.optim import Optimizer

from opt_runner.methods.base import Method, method_options

if TYPE_CHECKING:
    from opt_runner.methods.stack import Stack

Count = Annotated[int, Field(gt=0, le=10**9)]
_SHORTEST = 20


@method_options
class InRounds(Method):
    """At the end of a round W <- V for good; what the method draws and trains starts again.

    rounds: of the budget. round_steps: steps a round, or None for the budget divided by `rounds`,
        but at least 20 steps, as momentum needs some to build up anew.

    Stacks for which nothing is drawn go on.
    """

    rounds: Count = 400
    round_steps: Count | None = None

    # Steps a round where nobody has told the budget, for example in a user's own loop.
    without_budget: ClassVar[int] = _SHORTEST

    def after_step(self, stacks: "Sequence[Stack]", step: int, optimizer: Optimizer) -> None:
        round_, rest = divmod(step, self.round_steps or self.without_budget)
        if rest:
            return
        for stack in stacks:
            if list(stack.fixed.buffers()):
                stack.merge()
                stack.restart(round_)
                stack.clear_momentum(optimizer)

    def scaled_to(self, steps: int) -> Self:
        if self.round_steps is not None:
            return self
        return type(self)(**{**vars(self), "round_steps": max(_SHORTEST, steps // self.rounds)})
