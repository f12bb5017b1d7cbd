"""How the weights of a network become W (d, n), and V (d, n) a weight again.

Neurons are the columns of W; d, the fan-in, runs over the kernel's positions and then the input
channels, channels fastest, as in the reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from opt_runner import heads
from opt_runner.errors import UserError
from opt_runner.module_types import CONVOLUTIONS, EMBEDDINGS, View, base, leading, named_only, views

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Layer:
    """A weight of the network seen as W (d, n).

    name: of its module, and of its part of the module where that has several. parameter: of the
    weight, in the network. kernel, stride: of a convolution of that many dimensions, () for
    others; the stride counts entries of the kernel, which dilation sets apart. groups: of neurons
    that see different channels. first: whether it is the first of the layers that OPT may cover.
    output: whether it ends in an output of the network, or is tied to an embedding.
    rows: from where to where along the parameter's first dimension the layer's part of it is; None:
    all of it. transposed: whether the weight is (groups c, n / groups, *kernel), else it is
    (n, c, *kernel).
    order: of a registered type (`module_types`), the order of the part's axes that puts the neurons
    first; () for PyTorch's modules. shape: of that part. maps: how many of the parameter's first
    axes count its layers; they are taken together as rows.
    """

    name: str
    parameter: str
    d: int
    n: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    first: bool = False
    output: bool = False
    rows: tuple[int, int] | None = None
    groups: int = 1
    transposed: bool = False
    order: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    maps: int = 0

    def part(self, parameter: Tensor) -> Tensor:
        """Return the layer's part of the parameter, as a view."""
        if self.rows is None:
            return parameter
        return self.packed(parameter)[slice(*self.rows)]

    def packed(self, parameter: Tensor) -> Tensor:
        """Return a view of the parameter in which `rows` count along the first axis."""
        return parameter if self.maps < 2 else parameter.view(-1, *parameter.shape[self.maps :])

    def matrix(self, parameter: Tensor) -> Tensor:
        """Return W (d, n) of the parameter."""
        weight = self.part(parameter)
        if self.order:
            weight = weight.permute(self.order).flatten(1)
        if self.transposed:
            groups = torch.unflatten(weight, 0, (self.groups, -1))
            weight = groups.transpose(1, 2).flatten(0, 1)
        return self.columns(weight)

    def weight(self, V: Tensor) -> Tensor:
        """Return the part of the parameter, (..., *shape), of V (..., d, n): `matrix` inverted."""
        if self.order:
            before = V.shape[:-2]
            permuted = V.mT.reshape(*before, *(self.shape[axis] for axis in self.order))
            axes = sorted(range(len(self.order)), key=self.order.__getitem__)
            return permuted.permute(*range(len(before)), *(len(before) + axis for axis in axes))
        sides = len(self.kernel)
        weight = self.kernels(V)
        if self.transposed:
            groups = torch.unflatten(weight, -2 - sides, (self.groups, -1))
            swapped = groups.transpose(-2 - sides, -1 - sides)
            weight = swapped.flatten(-3 - sides, -2 - sides)
        return weight

    def kernels(self, V: Tensor) -> Tensor:
        """Return V (..., d, n) as (..., n, c, *kernel), whatever form the parameter has."""
        sides = len(self.kernel)
        by_position = V.reshape(*V.shape[:-2], *self.kernel, -1, V.shape[-1])
        return by_position.movedim((-1, -2), (-2 - sides, -1 - sides))

    def columns(self, kernels: Tensor) -> Tensor:
        """Return (d, n) of (n, c, *kernel) for one layer: `kernels` inverted."""
        return kernels.permute(*range(2, kernels.ndim), 1, 0).reshape(-1, kernels.shape[0])


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


def candidates(network: nn.Module, per_group: bool = False, example: Any = None) -> list[Candidate]:
    """Return all layers of the network, in module order.

    A weight that several modules share counts once, on demand only where it is so for all of them.

    per_group: an R for each group of a grouped convolution, see Note [Groups] of `module_types`.
    example: an input, by which the layers that end in an output are found; see `heads`.
    Raises UserError for a module whose weight has no shape yet, and for DDP, which would not see R.
    """
    found: dict[object, Candidate] = {}
    tied: set[object] = set()  # to an embedding
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise UserError(
                "DistributedDataParallel inside of OPT would leave each process an R of its own: "
                "write DistributedDataParallel(OPT(network))"
            )
        for view in views(module, per_group):
            own = module._parameters.get(view.attribute)
            if isinstance(own, UninitializedParameter):
                raise UserError(f"layer {name!r} is lazy: run one batch through the network first")
            candidate = _candidate(name, module, view)
            holder = (id(module), view.attribute) if own is None else (id(own), "")
            key = (*holder, view.rows)
            former = found.get(key)
            if former and isinstance(module, EMBEDDINGS) != issubclass(former.type, EMBEDDINGS):
                tied.add(key)
            if former is None or (former.on_demand and not candidate.on_demand):
                found.pop(key, None)
                found[key] = replace(candidate, others=former.names if former else ())
            else:
                found[key] = replace(former, others=(*former.others, *candidate.names))
    default = [one for one in found.values() if not one.on_demand]
    outputs = heads.by_graph(network, default, example) if example is not None else None
    if outputs is None:
        outputs = heads.by_name(network, default)
    return [
        replace(one, layer=replace(one.layer, output=one.layer.parameter in outputs or key in tied))
        for key, one in found.items()
    ]


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


def assembled(parameter: Tensor, parts: Sequence[tuple[Layer, Tensor]]) -> Tensor:
    """Return the parameter with the weights of these layers in their places.

    It has the parameter's own type and strides. Strides of axes of size 1 matter too: convolutions
    choose the layout of their output by them, and with some of them oneDNN crashes (torch 2.14).
    """
    (layer, weight), *_ = parts
    if layer.rows is not None:
        packed = layer.packed(parameter)
        pieces: list[Tensor] = []
        done = 0
        for layer, weight in sorted(parts, key=lambda part: part[0].rows or ()):
            assert layer.rows is not None
            start, stop = layer.rows
            pieces += [packed[done:start], weight]
            done = stop
        pieces.append(packed[done:])
        weight = torch.cat([piece for piece in pieces if len(piece)]).view(parameter.shape)
    weight = weight.to(parameter.dtype)
    strides, shape = parameter.stride(), parameter.shape
    if weight.stride() == strides:
        return weight
    order = sorted(range(weight.ndim), key=lambda axis: (-strides[axis], shape[axis] == 1))
    dense = weight.permute(order).flatten().view([shape[axis] for axis in order])
    return dense.permute([order.index(axis) for axis in range(weight.ndim)])
