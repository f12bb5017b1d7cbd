"""The learning rate, which depends on the step only: warm-up, then a factor at each milestone."""

from collections.abc import Sequence

from torch.optim import Optimizer


def set_learning_rates(
    optimizer: Optimizer, step: int, warmup: int, milestones: Sequence[int], factor: float
) -> None:
    """Set every group's lr to its first lr times factor^(milestones reached).

    In the first `warmup` steps it is scaled by (step + 1) / warmup. If a group has its own
    `milestone_factor`, that replaces `factor`.
    """
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    reached = sum(step >= milestone for milestone in milestones)
    for group in optimizer.param_groups:
        start = group.setdefault("initial_lr", group["lr"])
        group["lr"] = start * warm * group.get("milestone_factor", factor) ** reached
