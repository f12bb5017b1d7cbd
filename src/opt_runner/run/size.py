"""The memory of a training step, from the shapes alone, before anything is allocated.

The run's own network, method and optimizer make one step on PyTorch's `meta` device, where tensors
have shapes and no content.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from opt_runner.config.components import named_method
from opt_runner.config.schema import Config
from opt_runner.datasets import Data, Stored
from opt_runner.errors import UserError, gib
from opt_runner.layers import Layer
from opt_runner.machine import free_memory
from opt_runner.methods.kernels.on_gpu import sizes_as_on
from opt_runner.methods.stack import Stack
from opt_runner.opt import OPT
from opt_runner.run.build import dtype_of, network_of, opt_of, optimizer_of

_aten = torch.ops.aten
# Skip the exact check if R, its gradient and momentum need less than this share of free memory.
_WORTH_A_LOOK = 0.1
_BYTES = 4 * 4  # of an entry of R, its gradient, its momentum, the factors of a decomposition
_MOST_TRIES = 6


def memory_of_step(config: Config, data: Data, device: torch.device) -> int | None:
    """Return the bytes of a step; None for a network that needs data to be built or computed.

    These are the bytes of trained tensors, gradients, the optimizer's state, W, and the tensors
    that the forward pass keeps for the backward pass. Workspaces of libraries come on top.

    bfloat16 is counted as float32, because only the network's activations are bfloat16.
    """
    with sizes_as_on(device), torch.device("meta"), _Shapes():  # type: ignore[no-untyped-call]
        try:
            opt = _opt(config, data)
            optimizer = optimizer_of(config, opt)
            inputs, targets = data.train.inputs, data.train.targets
            count = config.batch_size or len(data.train)
            x = data.network_input(_empty_like(inputs, count), dtype_of(config))
            y = _empty_like(targets, count)
            kept = _Kept(opt)
            with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
                total = data.loss(opt(x), y, 0.0, 0.0) + opt.penalty()
            torch.autograd.backward(total)
            held = [p.grad for p in opt.parameters() if p.grad is not None]
            optimizer.step()
        except UserError:
            raise
        except Exception:
            return None
    state = [value for of_one in optimizer.state.values() for value in of_one.values()]
    tensors = [*opt.parameters(), *opt.buffers(), *held, *state]
    return kept.bytes + sum(t.nbytes for t in tensors if isinstance(t, Tensor))


def check_fits(config: Config, data: Data, device: torch.device) -> None:
    """Raise UserError if a step takes more memory than is free, and name options that fit.

    If either is unknown, nothing is raised.
    """
    free = free_memory(device)
    if free is None:
        return
    layers = _covered(config, data)
    if _BYTES * sum(layer.d**2 for layer in layers) < _WORTH_A_LOOK * free:
        return
    memory = memory_of_step(config, data, device)
    if memory is None or memory <= free:
        return
    largest = max(layers, key=lambda layer: layer.d)
    smaller = sorted({layer.d for layer in layers if layer.d < largest.d}, reverse=True)
    ways = {
        f"layers.max_d={d}": {"layers": config.layers.model_copy(update={"max_d": d})}
        for d in smaller[:_MOST_TRIES]
    } | {"method=sopt": {"method": named_method("sopt", {}, "method")}}
    sizes = {
        way: memory_of_step(config.model_copy(update=changed), data, device)
        for way, changed in ways.items()
    }
    fits = [f"{way} takes {gib(size)}" for way, size in sizes.items() if size and size <= free]
    raise UserError(
        f"a step of {config.method.name} on {config.model.name} takes {gib(memory)} and "
        f"{device} has {gib(free)} free: of {len(layers)} layers {largest.name} is the largest, "
        f"with d = {largest.d:,} and so {largest.d**2:,} entries of R; "
        + (f"what fits: {', '.join((fits[0], *fits[-1:]) if len(fits) > 1 else fits)}" if fits
           else "a smaller batch_size, or name fewer layers: layers.include=[...]")
    )  # fmt: skip


def _covered(config: Config, data: Data) -> list[Layer]:
    """Return all layers that a method covers; none for a network that needs data."""
    with torch.device("meta"), _Shapes():  # type: ignore[no-untyped-call]
        try:
            stacks = cast(Iterable[Stack], _opt(config, data).stacks)
        except UserError:
            raise
        except Exception:
            return []
    return [layer for stack in stacks for layer in stack.layers]


def _opt(config: Config, data: Data) -> OPT:
    network = network_of(config, data.gives, steps=1).to(dtype_of(config))
    return opt_of(config, network, steps=1)


class _Kept:
    """The bytes that autograd keeps beside the parameters, each storage counted once."""

    def __init__(self, opt: OPT) -> None:
        self._seen = {_storage(p) for p in opt.parameters()}
        self._alive: list[Tensor] = []  # so that no storage takes the place of another
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        if _storage(tensor) not in self._seen:
            self._seen.add(_storage(tensor))
            self._alive.append(tensor.detach())
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Results of operations for which PyTorch has no meta kernel."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _aten.geqrf.default:
            (A,) = args
            return torch.empty_like(A), A.new_empty(*A.shape[:-2], min(A.shape[-2:]))
        if func is _aten.ormqr.default:
            return torch.empty_like(args[2])
        return func(*args, **(kwargs or {}))


def _empty_like(samples: Tensor | Stored, count: int) -> Tensor:
    return torch.empty(count, *samples.shape[1:], dtype=samples.dtype)
