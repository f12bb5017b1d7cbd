"""The recipe's learning rate: a factor at each milestone. A function of the step alone."""

from collections.abc import Sequence

from torch.optim import Optimizer


def set_learning_rates(
    optimizer: Optimizer, step: int, milestones: Sequence[int], factor: float
) -> None:
    """Set every group's lr to its first lr times factor^(milestones reached).

    A group's own `milestone_factor`, where it has one, replaces `factor`.
    """
    reached = sum(step >= milestone for milestone in milestones)
    for group in optimizer.param_groups:
        start = group.setdefault("initial_lr", group["lr"])
        group["lr"] = start * group.get("milestone_factor", factor) ** reached
