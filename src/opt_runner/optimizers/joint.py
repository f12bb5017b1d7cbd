"""Several optimizers that act as one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer


def loss_of(closure: Any) -> Any:
    """Return what the closure of a step returns, None without one; gradients are on in it."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class Joint(Optimizer):
    """Steps several optimizers, each with groups of its own, in turn.

    They share one list of groups and one state: `state_dict`, learning rate schedules and hooks
    work as for a single optimizer.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = tuple(optimizers)
        super().__init__([group for one in optimizers for group in one.param_groups], {})
        self._share()

    def step(self, closure: Any = None) -> Any:
        loss = loss_of(closure)
        for one in self.optimizers:
            one.step()
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Give each optimizer its groups and the state, which `load_state_dict` replaces."""
        groups = iter(self.param_groups)
        for one in self.optimizers:
            one.param_groups = [next(groups) for _ in one.param_groups]
            one.state = self.state
            if isinstance(one, Joint):
                one._share()
