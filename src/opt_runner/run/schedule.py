"""Schedules of the learning rate: functions of the step only, after a linear warm-up."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import Field
from torch.optim import Optimizer

from opt_runner.methods.base import method_options

Share = Annotated[float, Field(gt=0, lt=1)]
Final = Annotated[float, Field(ge=0, le=1)]


@runtime_checkable
class Schedule(Protocol):
    """A schedule: the class that the config names, with its options."""

    def __call__(self, step: int, steps: int, warmup: int, group: Mapping[str, Any]) -> float:
        """Return the factor of the learning rate in the step after `step` of `steps`.

        warmup: the number of steps in which the learning rate rises; the factor is multiplied by
        that rise. group: a parameter group.
        """
        ...


@method_options
class Milestones:
    """A factor of factor^(milestones reached). A group's own `milestone_factor` replaces `factor`.

    milestones: shares of the budget.
    """

    milestones: tuple[Share, ...]
    factor: Annotated[float, Field(gt=0, le=1)]

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"schedule.milestones must ascend, got {list(self.milestones)}")

    def __call__(self, step: int, steps: int, warmup: int, group: Mapping[str, Any]) -> float:
        reached = sum(step >= max(1, round(share * steps)) for share in self.milestones)
        return float(group.get("milestone_factor", self.factor) ** reached)


@method_options
class Constant:
    """A factor of 1."""

    def __call__(self, step: int, steps: int, warmup: int, group: Mapping[str, Any]) -> float:
        return 1.0


@method_options
class Linear:
    """A factor of 1 - (1 - final) t, for t from 0 after the warm-up to 1 at the end."""

    final: Final = 0.0

    def __call__(self, step: int, steps: int, warmup: int, group: Mapping[str, Any]) -> float:
        return 1 - (1 - self.final) * _progress(step, steps, warmup)


@method_options
class Cosine:
    """A factor of final + (1 - final) (1 + cos(pi t)) / 2, with t as of `Linear`."""

    final: Final = 0.0

    def __call__(self, step: int, steps: int, warmup: int, group: Mapping[str, Any]) -> float:
        t = _progress(step, steps, warmup)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * t)) / 2


@method_options
class WarmupStableDecay:
    """A factor of 1, and over the last share `decay` of the budget a line from 1 to `final`."""

    decay: Share = 0.2
    final: Final = 0.0

    def __call__(self, step: int, steps: int, warmup: int, group: Mapping[str, Any]) -> float:
        start = max(warmup, steps - round(self.decay * steps))
        return 1 - (1 - self.final) * _progress(step, steps, start)


WITHOUT_MILESTONES = (Constant, Linear, Cosine, WarmupStableDecay)


def _progress(step: int, steps: int, start: int) -> float:
    """Return the share of the steps after `start` that are made, below 1."""
    return max(0, step - start) / max(1, steps - start)


def set_learning_rates(
    optimizer: Optimizer, schedule: Schedule, step: int, steps: int, warmup: int
) -> None:
    """Set every group's lr to its first lr times the factor of the schedule.

    In the first `warmup` steps it is multiplied by (step + 1) / warmup.
    """
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    for group in optimizer.param_groups:
        start = group.setdefault("initial_lr", group["lr"])
        group["lr"] = start * warm * schedule(step, steps, warmup, group)
