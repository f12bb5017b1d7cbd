"""The layers of a network that a method may be asked to cover."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from opt_runner import heads
from opt_runner.errors import UserError
from opt_runner.layers import Layer
from opt_runner.module_types import CONVOLUTIONS, EMBEDDINGS, View, base, leading, named_only, views

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Candidate:
    """A layer that a method may be asked to cover.

    module: its name. type: of the module. on_demand: whether it is covered only where it is asked
    for. frozen: whether its parameter does not train. obstacle: why it cannot be covered at all.
    own_forward: whether its type computes with the weight in a way that OPT does not know.
    others: its names elsewhere in the network, where it is shared.
    """

    layer: Layer
    module: str
    type: type[nn.Module]
    on_demand: bool
    frozen: bool
    obstacle: str | None = None
    own_forward: bool = False
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names it can be asked for by: the module's stands for all of its layers."""
        return self.layer.name, self.module, *self.others


@contextmanager
def _as_evaluated(network: nn.Module) -> Iterator[None]:
    """Let parametrizations compute as in evaluation: spectral_norm changes in training."""
    parts = [
        part
        for module in network.modules()
        if isinstance(module, parametrize.ParametrizationList)
        for part in module.modules()
        if part.training
    ]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part in parts:
            part.training = True


def candidates(network: nn.Module, per_group: bool = False, example: Any = None) -> list[Candidate]:
    """Return all layers of the network, in module order.

    A weight that several modules share counts once, on demand only where it is so for all of them.

    per_group: an R for each group of a grouped convolution, see Note [Groups] of `module_types`.
    example: an input, by which the layers that end in an output are found; see `heads`.
    Raises UserError for a module whose weight has no shape yet, and for DDP, which would not see R.
    """
    with _as_evaluated(network):
        found, tied = _found(network, per_group)
    default = [one for one in found.values() if not one.on_demand]
    outputs = heads.by_graph(network, default, example) if example is not None else None
    if outputs is None:
        outputs = heads.by_name(network, default)
    return [
        replace(one, layer=replace(one.layer, output=one.layer.parameter in outputs or key in tied))
        for key, one in found.items()
    ]


def _found(
    network: nn.Module, per_group: bool
) -> tuple[dict[tuple[object, ...], Candidate], set[object]]:
    """Return each layer by its parameter and rows, and the keys that are tied to an embedding."""
    found: dict[tuple[object, ...], Candidate] = {}
    places: dict[tuple[object, ...], tuple[int, str]] = {}  # where each parameter was found first
    tied: set[object] = set()  # to an embedding
    in_memory = _sharing_memory(network)
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            raise UserError(
                f"{type(module).__name__} inside of OPT would not see R: write "
                "DistributedDataParallel(OPT(network))"
            )
        for view in views(module, per_group):
            own = module._parameters.get(view.attribute)
            if isinstance(own, UninitializedParameter):
                raise UserError(f"layer {name!r} is lazy: run one batch through the network first")
            candidate = _candidate(name, module, view)
            if other := in_memory.get(id(own)):
                candidate = replace(
                    candidate, obstacle=f"it shares memory with {other}, which trains by itself"
                )
            holder = (id(module), view.attribute) if own is None else (id(own), "")
            key = (*holder, view.rows)
            former = found.get(key)
            here = (id(module), view.attribute)
            if former is None and places.setdefault(holder, here) != here:
                # In other parts, as an in_proj_weight that is the weight of a Linear as well.
                for part, one in found.items():
                    if part[:2] == holder:
                        found[part] = replace(one, others=(*one.others, *candidate.names))
                continue
            if former and isinstance(module, EMBEDDINGS) != issubclass(former.type, EMBEDDINGS):
                tied.add(key)
            if former is None or (former.on_demand and not candidate.on_demand):
                found.pop(key, None)
                found[key] = replace(candidate, others=former.names if former else ())
            else:
                found[key] = replace(former, others=(*former.others, *candidate.names))
    return found, tied


def _sharing_memory(network: nn.Module) -> dict[int, str]:
    """Return {id of a parameter: name of another one, which trains, that has its memory}.

    As `Parameter(encoder.weight.t())` has, whose steps would move W.
    """
    spans = sorted(
        ((*_span(one), name, one) for name, one in network.named_parameters() if _has_memory(one)),
        key=lambda span: span[:2],
    )
    found: dict[int, str] = {}
    for i, (_, end, name, one) in enumerate(spans):
        for start, _, other, two in spans[i + 1 :]:
            if start >= end:
                break
            if _overlap(one, two):
                if two.requires_grad:
                    found[id(one)] = other
                if one.requires_grad:
                    found[id(two)] = name
    return found


def _has_memory(one: Tensor) -> bool:
    dense = one.layout is torch.strided and not one.is_nested and not one.is_meta
    return type(one) is nn.Parameter and dense and one.numel() > 0


def _span(one: Tensor) -> tuple[int, int]:
    """Return the addresses of a tensor's first byte and of the one behind its last."""
    last = sum((n - 1) * stride for n, stride in zip(one.shape, one.stride(), strict=True))
    return one.data_ptr(), one.data_ptr() + (last + 1) * one.itemsize


def _overlap(one: Tensor, two: Tensor) -> bool:
    """Return True if two tensors share an element: interleaved ones, as of a split, do not."""
    if one.dtype != two.dtype:
        return True
    begin = min(one.data_ptr(), two.data_ptr())
    size = max(_span(one)[1], _span(two)[1]) - begin
    taken = torch.zeros(size // one.itemsize, dtype=torch.bool, device="cpu")
    mine, other = (
        taken.as_strided(t.shape, t.stride(), (t.data_ptr() - begin) // t.itemsize)
        for t in (one, two)
    )
    mine.fill_(True)
    return bool(other.any())


def _candidate(name: str, module: nn.Module, view: View) -> Candidate:
    parameter: Tensor = getattr(module, view.attribute)
    layer = Layer(
        name=".".join(filter(None, (name, view.suffix))),
        parameter=".".join(filter(None, (name, view.attribute))),
        d=0,
        n=0,
        rows=view.rows,
    )
    if view.axes:
        layer = _by_axes(layer, view.axes, parameter)
    else:
        weight = parameter if view.rows is None else parameter[slice(*view.rows)]
        stride: tuple[int, ...] = ()
        groups, n = 1, weight.shape[0]
        if isinstance(module, CONVOLUTIONS):
            apart = zip(module.stride, module.dilation, strict=True)
            stride = tuple(step // gcd(step, dilation) for step, dilation in apart)
            groups = module.groups if view.rows is None else 1
        if transposed := isinstance(module, _TRANSPOSED):
            n = weight.shape[1] * groups
        layer = replace(
            layer,
            d=weight.numel() // max(1, n),
            n=n,
            kernel=tuple(weight.shape[2:]),
            stride=stride,
            groups=groups,
            transposed=transposed,
        )
    return Candidate(
        layer,
        module=name,
        type=type(module),
        on_demand=named_only(module),
        frozen=view.attribute in module._parameters and not parameter.requires_grad,
        obstacle=_obstacle(name, module, view.attribute),
        own_forward=any(
            getattr(type(module), name, None) is not getattr(base(module), name, None)
            for name in ("forward", "_conv_forward")
        ),
    )


def _by_axes(layer: Layer, axes: str, parameter: Tensor) -> Layer:
    """Return the layer with its sizes, of axes as `register_layer` takes them."""
    maps = leading(axes, parameter)
    letters = axes.removeprefix("k").split()
    sizes = tuple(parameter.shape[maps:])
    shape, neurons = sizes, letters.index("n")
    if maps:  # of which a part keeps one, of size 1
        shape, neurons = (1, *sizes), neurons + 1
    n = shape[neurons]
    order = (neurons, *(axis for axis in range(len(shape)) if axis != neurons))
    return replace(layer, d=prod(shape) // max(1, n), n=n, order=order, shape=shape, maps=maps)


def _obstacle(name: str, module: nn.Module, attribute: str) -> str | None:
    if attribute not in module._parameters:
        undo = (
            f"torch.nn.utils.parametrize.remove_parametrizations({name}, {attribute!r})"
            if parametrize.is_parametrized(module, attribute)
            else "torch.nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove"
        )
        return f"its {attribute} is made by another parametrization, not trained itself ({undo})"
    parameter = module._parameters[attribute]
    if parameter is not None and parameter.numel() == 0:
        return "it is empty"
    if getattr(module, "sparse", False):
        return "its gradient is sparse (sparse=True)"
    if getattr(module, "max_norm", None) is not None:
        return "it changes its weight in the forward pass (max_norm)"
    if hasattr(parameter, "full_tensor") or hasattr(parameter, "ds_id"):
        return (
            f"its {attribute} is sharded already, by FSDP, tensor parallelism or DeepSpeed's ZeRO-3"
            " (give OPT the network before: fully_shard(OPT(network)))"
        )
    if parameter is not None and parameter.dtype not in _FLOATS:
        kind = str(parameter.dtype).removeprefix("torch.")
        return f"its {attribute} is {kind}, and W must be real numbers of 16 bits or more"
    return None
