"""Several optimizers that act as one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from opt_runner.errors import UserError


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
        first, *others = (one.defaults for one in optimizers)
        # What schedules look for, as OneCycleLR does for `momentum` or `betas`.
        common = {key: first[key] for key in first if all(key in one for one in others)}
        super().__init__([group for one in optimizers for group in one.param_groups], common)
        self._share()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take the groups of the optimizers. Raises UserError for another one later."""
        if len(self.param_groups) == sum(len(one.param_groups) for one in self.optimizers):
            raise UserError(
                "an optimizer of several parts cannot take one more group: call opt.optimizer(...) "
                "again once the parameters train"
            )
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimizers": self.optimizers}

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
