"""The weights of a network that a method covers: where they are, and W at its start."""

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from opt_runner.errors import UserError
from opt_runner.layers import Layer
from opt_runner.methods.base import Method
from opt_runner.module_types import EMBEDDINGS

Weights = Literal["given", "gaussian", "pretrained"]
# Neurons of N(0, 2/d) have the length sqrt(2), and those of a network that trains 0.05 and more.
_VANISHING = 1e-3
# Below this share of the usual length a network learned much less (docs/results/language.md).
_SHORT = 0.3
# Attributes by which FSDP1 and DeepSpeed's ZeRO-3 know the parameters that they keep.
_TAKEN = ("_fsdp_flattened", "ds_id")


@torch.no_grad()
def start_weight(
    network: nn.Module,
    layer: Layer,
    method: Method,
    weights: Weights,
    generator: torch.Generator | None,
) -> bool:
    """Write W of a layer as it starts; return False, and write nothing, where it never moves.

    A method that does not train W turns W = 0 into V = 0, whatever it learns.
    """
    parameter = held(network, layer.parameter)
    W = start = layer.matrix(parameter)
    with draws_for(W):
        if weights == "gaussian":
            drawn = torch.randn(layer.d, layer.n, generator=generator) * (2 / layer.d) ** 0.5
            start = drawn.to(W)
        given, start = start, method.initial_weight(layer, start, generator)
    if start is not given and weights == "pretrained":
        raise UserError(
            f"{type(method).__name__} sets W itself at the start, so it cannot keep pretrained "
            "weights"
        )
    if not method.trains_weight and not start.is_meta:
        longest = torch.linalg.vector_norm(start.float(), dim=0).max()
        if longest < _VANISHING:
            return False
    if start is not W:
        for module in network.modules():
            if isinstance(module, EMBEDDINGS) and module._parameters.get("weight") is parameter:
                # A vector that stands for no word stays as it is.
                kept = [] if module.padding_idx is None else [module.padding_idx]
                start[:, kept] = W[:, kept].to(start)
        layer.part(parameter).copy_(layer.weight(start))
    return True


def draws_for(W: Tensor) -> AbstractContextManager[Any]:
    """Let methods draw on the CPU, whatever the default device is; for a W on `meta` there."""
    return torch.device("meta" if W.is_meta else "cpu")


@torch.no_grad()
def is_short(network: nn.Module, layer: Layer, method: Method) -> bool:
    """Return True if W has short neurons, whose length rotations keep.

    The mean length is compared with sqrt(2), the length of neurons from N(0, 2/d).
    """
    parameter = held(network, layer.parameter)
    if not method.changes_weight or parameter.is_meta:
        return False
    lengths = torch.linalg.vector_norm(layer.matrix(parameter).float(), dim=0)
    return bool(lengths.mean() < _SHORT * 2**0.5)


def held(network: nn.Module, name: str) -> Tensor:
    """Return the tensor that a module has as its parameter, whatever its type is at the moment.

    Raises UserError where another package has taken it.
    """
    module, _, attribute = name.rpartition(".")
    try:
        tensor = network.get_submodule(module)._parameters.get(attribute)
    except AttributeError:  # the module is gone
        tensor = None
    if tensor is None or any(hasattr(tensor, mark) for mark in _TAKEN) or _is_flat(tensor):
        raise UserError(
            f"{name} has been taken by another package, as FSDP1 (FullyShardedDataParallel), "
            "DeepSpeed's ZeRO-3, torch.nn.utils.parametrize and prune, adapters and quantisation "
            "do; OPT works with DDP and FSDP2 (fully_shard), and all of them with merge(opt)"
        )
    return tensor


def _is_flat(tensor: Tensor) -> bool:
    """Return True for a part of the flat parameter that FSDP1 makes of all."""
    return not isinstance(tensor, nn.Parameter) and hasattr(tensor._base, "_is_flat_param")
