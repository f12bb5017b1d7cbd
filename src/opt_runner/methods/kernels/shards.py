"""Parameters that FSDP2 has sharded over processes: each holds a part, as a `DTensor`.

A stack (k, ...) is sharded along k, so every process has whole matrices, and steps of an optimizer
that treat each matrix on its own need no communication.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from opt_runner.errors import UserError


def is_sharded(tensor: Tensor) -> bool:
    """Return True for a part of a tensor that several processes share."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor with the parts of all processes, which all call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def write(tensor: Tensor, value: Tensor) -> None:
    """Write a value, the same one in all processes, into a tensor that may be sharded."""
    if is_sharded(tensor):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
        value = distribute_tensor(value.to(tensor.dtype), mesh, placements, src_data_rank=None)
    tensor.copy_(value)


def unshard(network: nn.Module, opt: nn.Module) -> None:
    """Put whole parameters in the place of those that FSDP2 has sharded; all processes call this.

    network: a copy of the one in `opt`, which FSDP2 may have taken. Layers under tensor parallelism
    keep their parts, which their hooks need.
    """
    if not any(is_sharded(parameter) for parameter in network.parameters()):
        return
    from torch.distributed.fsdp import FSDPModule

    if not any(isinstance(module, FSDPModule) for module in opt.modules()):
        return
    made: dict[int, nn.Parameter] = {}  # of parameters that modules share
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and is_sharded(parameter):
                if id(parameter) not in made:
                    full = whole(parameter.detach())
                    made[id(parameter)] = nn.Parameter(full, parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]


def on_own_part(
    move: Callable[[Tensor, Tensor, Mapping[str, Any], dict[str, Any]], None],
    X: Tensor,
    G: Tensor,
    group: Mapping[str, Any],
    state: dict[str, Any],
) -> None:
    """Call `move` with this process's matrices of X and G (k, d, m), and of the state.

    What `move` keeps in the state is sharded as X is, so that checkpoints can be resharded.
    """
    for key, value in state.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            state[key] = value.to(X.dtype)  # as X is after `opt.double()`
    if not is_sharded(X):
        move(X, G, group, state)
        return
    from torch.distributed.tensor import DTensor, Replicate, Shard

    assert isinstance(X, DTensor)
    if any(part not in (Shard(0), Replicate()) for part in X.placements):
        raise UserError(
            "R is not sharded along its first dimension: leave fully_shard's shard_placement_fn out"
        )
    own = {key: _local(value) for key, value in state.items()}
    move(_local(X), _local(G), group, own)
    for key, value in own.items():
        if not isinstance(value, Tensor):
            state[key] = value
            continue
        shape = torch.Size((X.shape[0], *value.shape[1:]))
        state[key] = DTensor.from_local(
            value[: len(X.to_local())],
            X.device_mesh,
            X.placements,
            run_check=False,
            shape=shape,
            stride=torch.empty(shape, device="meta").stride(),
        )


def _local(value: Any) -> Any:
    """Return this process's matrices; a matrix of ones, which nothing keeps, where it has none."""
    if not is_sharded(value):
        return value
    local = value.to_local()
    return local if len(local) else local.new_ones(1, *local.shape[1:])
