"""What any optimizer tells: its parameters, the optimizers inside of it, whether it moves them."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def with_inner(optimizer: Optimizer) -> Iterator[Optimizer]:
    """Yield the optimizer and those that it steps, as `Joint`, SAM, Lookahead and ZeRO do."""
    yield optimizer
    for value in vars(optimizer).values():
        for inner in value if isinstance(value, list | tuple) else [value]:
            if isinstance(inner, Optimizer):
                yield from with_inner(inner)


def innermost(optimizer: Any) -> Optimizer:
    """Return the optimizer inside of a framework's wrapper, as accelerate's and Lightning's."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def parameter_ids(optimizer: Optimizer) -> set[int]:
    """Return the id of each parameter that the optimizer steps."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def moved(tensor: Tensor, optimizer: Optimizer) -> bool:
    """Return True if the tensor had a gradient: some optimizers drop it, and keep a state."""
    return tensor.grad is not None or tensor in optimizer.state


def moves_nothing(optimizer: Optimizer) -> bool:
    """Return True if a step has moved nothing: it does not count.

    With GradScaler a fused optimizer skips its own step if a gradient is infinite. And
    torch.distributed.checkpoint makes a step with zero gradients and zero rates, so that the
    optimizer has a state to load into.
    """
    if (found := getattr(optimizer, "found_inf", None)) is not None and bool(found):
        return True
    return all(_is_zero(group.get("lr", 1)) for group in optimizer.param_groups) and not any(
        bool(p.grad.any())
        for group in optimizer.param_groups
        for p in group["params"]
        if p.grad is not None
    )


def _is_zero(lr: float | Tensor) -> bool:
    # One on a GPU would have to be waited for.
    return (not isinstance(lr, Tensor) or lr.device.type == "cpu") and float(lr) == 0
