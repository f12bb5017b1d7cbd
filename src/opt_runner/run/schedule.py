"""The learning rate: a linear warm-up, then a factor at each milestone, by the step alone."""

from collections.abc import Sequence

from torch.optim import Optimizer


def set_learning_rates(
    optimizer: Optimizer, step: int, warmup: int, milestones: Sequence[int], factor: float
) -> None:
    """Set every group's lr to its first lr times factor^(milestones reached).

    In the first `warmup` steps that is scaled by (step + 1) / warmup. A group's own
    `milestone_factor`, where it has one, replaces `factor`.
    """
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    reached = sum(step >= milestone for milestone in milestones)
    for group in optimizer.param_groups:
        start = group.setdefault("initial_lr", group["lr"])
        group["lr"] = start * warm * group.get("milestone_factor", factor) ** reached
