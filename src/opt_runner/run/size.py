"""What a step of a run takes, told from the shapes before anything is allocated.

The run's own network, method and optimizer make one step on PyTorch's `meta` device, where tensors
have shapes and no content.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from opt_runner.config.schema import Config
from opt_runner.datasets import Images
from opt_runner.errors import UserError, gib
from opt_runner.layers import Layer
from opt_runner.machine import free_memory
from opt_runner.methods.stack import Stack
from opt_runner.opt import OPT
from opt_runner.run.build import dtype_of, network_of, opt_of
from opt_runner.run.loss import smoothed_cross_entropy

_aten = torch.ops.aten
# Only where R and what goes with it are more than this share of the memory is it looked at closely.
_WORTH_A_LOOK = 0.1
_COPIES = 4  # R, its gradient, its momentum, the factors of a decomposition
_MOST_TRIES = 6


@dataclass(frozen=True)
class Size:
    """memory: bytes of what trains, its gradients, the optimizer's state, W, and what the forward
    pass keeps for the backward pass; workspaces of the libraries come on top.
    flops: operations of a step: products, convolutions and decompositions.
    beside: the numbers that train beside the network, as R."""

    memory: int
    flops: int
    beside: int


def size_of(config: Config, images: Images) -> Size | None:
    """Of a step of this run; None for a network that needs data to be built or computed.

    bfloat16 is counted as float32, which it is for all but the network's activations.
    """
    with torch.device("meta"), _Shapes():  # type: ignore[no-untyped-call]
        try:
            opt = _opt(config, images)
            optimizer = opt.optimizer(**config.optimizer.model_dump())
            x = torch.empty(
                config.batch_size, images.channels, *images.size, dtype=dtype_of(config)
            )
            y = torch.empty(config.batch_size, dtype=torch.int64)
            kept = _Kept(opt)
            with FlopCounterMode(display=False, custom_mapping=_FLOPS) as counter:
                with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
                    total = smoothed_cross_entropy(opt(x), y) + opt.penalty()
                torch.autograd.backward(total)
                held = [p.grad for p in opt.parameters() if p.grad is not None]
                optimizer.step()
        except UserError:
            raise
        except Exception:
            return None
    state = [value for of_one in optimizer.state.values() for value in of_one.values()]
    tensors = [*opt.parameters(), *opt.buffers(), *held, *state]
    memory = kept.bytes + sum(_bytes(t) for t in tensors if isinstance(t, Tensor))
    beside = sum(tensor.numel() for tensor in opt.stacks.parameters())
    return Size(memory, counter.get_total_flops(), beside)


def check_fits(config: Config, images: Images, device: torch.device) -> None:
    """Raise UserError where a step takes more memory than the device has free, with what would fit.

    Says nothing where either is not known.
    """
    free = free_memory(device)
    if free is None or _rotations(config, images) < _WORTH_A_LOOK * free:
        return
    size = size_of(config, images)
    if size is None or size.memory <= free:
        return
    layers = _covered(config, images)
    largest = max(layers, key=lambda layer: layer.d)
    smaller = sorted({layer.d for layer in layers if layer.d < largest.d}, reverse=True)
    ways = [f"layers.max_d={d}" for d in smaller[:_MOST_TRIES]] + ["method=sopt"]
    fits = [
        f"{way} takes {gib(other.memory)}"
        for way in ways
        if (other := size_of(_changed(config, way), images)) and other.memory <= free
    ]
    raise UserError(
        f"a step of {config.method.name} on {config.model.name} takes {gib(size.memory)} and "
        f"{device} has {gib(free)} free: of {len(layers)} layers {largest.name} is the largest, "
        f"with d = {largest.d:,} and so {largest.d**2:,} entries of R; "
        + (f"what fits: {', '.join((fits[0], *fits[-1:]) if len(fits) > 1 else fits)}" if fits
           else "a smaller batch_size, or name fewer layers: layers.include=[...]")
    )  # fmt: skip


def _rotations(config: Config, images: Images) -> int:
    """Bytes of R and its like, for all layers that are covered, were they square."""
    return _COPIES * 4 * sum(layer.d**2 for layer in _covered(config, images))


def _covered(config: Config, images: Images) -> list[Layer]:
    """All layers that a method covers; none where that is not known, see `size_of`."""
    with torch.device("meta"), _Shapes():  # type: ignore[no-untyped-call]
        try:
            stacks = cast(Iterable[Stack], _opt(config, images).stacks)
        except UserError:
            raise
        except Exception:
            return []
    return [layer for stack in stacks for layer in stack.layers]


def _opt(config: Config, images: Images) -> OPT:
    network = network_of(config, images, steps=1).to(dtype_of(config))
    return opt_of(config, network, steps=1)


def _changed(config: Config, way: str) -> Config:
    """The config with one of the ways that `check_fits` names."""
    key, _, value = way.partition("=")
    if key == "layers.max_d":
        layers = config.layers.model_copy(update={"max_d": int(value)})
        return config.model_copy(update={"layers": layers})
    target = "opt_runner.methods.StochasticOPT"
    method = type(config.method).model_validate({"name": value, "_target_": target})
    return config.model_copy(update={"method": method})


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
    """Results of what PyTorch has no meta kernel for."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _aten.geqrf.default:
            (A,) = args
            return torch.empty_like(A), A.new_empty(*A.shape[:-2], min(A.shape[-2:]))
        if func is _aten.ormqr.default:
            return torch.empty_like(args[2])
        return func(*args, **(kwargs or {}))


def _of_square(factor: float) -> Callable[..., int]:
    """factor d^3 for each of the matrices (..., d, d)."""

    def flops(A: Sequence[int], *_: Any, **__: Any) -> int:
        return int(factor * math.prod(A) * A[-1])

    return flops


def _of_columns(factor: int, position: int) -> Callable[..., int]:
    """factor d^2 n for a (..., d, d) on the argument (..., d, n) at the position."""

    def flops(A: Sequence[int], *others: Sequence[int], **_: Any) -> int:
        return factor * math.prod(A) * others[position - 1][-1]

    return flops


# Golub and Van Loan, Matrix Computations: sections 3.2, 4.2, 5.2 and 8.6.
_FLOPS: dict[Any, Any] = {
    _aten.geqrf: _of_square(4 / 3),
    _aten.ormqr: _of_columns(2, position=2),
    _aten.linalg_lu_factor_ex: _of_square(2 / 3),
    _aten.linalg_lu_solve: _of_columns(2, position=2),
    _aten.linalg_solve_triangular: _of_columns(1, position=1),
    _aten._linalg_svd: _of_square(22),
    _aten.linalg_cholesky_ex: _of_square(1 / 3),
    _aten.cholesky_inverse: _of_square(2 / 3),
}


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
