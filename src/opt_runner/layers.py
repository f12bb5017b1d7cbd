"""How the weights of a network become W (d, n), and V (d, n) a weight again.

This is the one place that knows types of modules. Neurons are the columns of W; d, the fan-in,
runs over the kernel's positions and then the input channels, channels fastest, as in the reference.

Note [Packed weights]: PyTorch keeps several maps in one parameter where one product computes them
all, as q, k and v of attention or the gates of an LSTM. Each is a layer with a W of its own.

Note [Groups]: the neurons of a grouped convolution are one layer with one R, as the paper gives
each layer one R: the angles between all of its neurons stay. With an R for each group only those
inside a group do, for `groups` times as many parameters. A group with a single neuron, as in a
depthwise convolution, has no angles to keep: there the layer has one R in any case.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from opt_runner.errors import UserError

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_ON_DEMAND = (nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class Layer:
    """A weight of the network seen as W (d, n).

    name: of its module, and of its part of the module where that has several. parameter: of the
    weight, in the network. kernel, stride: of a convolution of that many dimensions, () for
    others. first: whether it is the first of the layers that OPT may cover. output: whether it is
    the network's last, the classifier.
    rows: from where to where along the parameter's first dimension the layer's part of it is; None:
    all of it. transposed: the groups of a transposed convolution, whose weight is
    (c, n / groups, *kernel); 0: the weight is (n, c, *kernel).
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
    transposed: int = 0

    def part(self, parameter: Tensor) -> Tensor:
        """What of the parameter is this layer's, as a view."""
        return parameter if self.rows is None else parameter[slice(*self.rows)]

    def matrix(self, parameter: Tensor) -> Tensor:
        """W (d, n) of the parameter."""
        weight = self.part(parameter)
        if self.transposed:
            groups = torch.unflatten(weight, 0, (self.transposed, -1))
            weight = groups.transpose(1, 2).flatten(0, 1)
        return self.columns(weight)

    def weight(self, V: Tensor) -> Tensor:
        """The inverse of `matrix`: the part of the parameter, (..., *shape), of V (..., d, n)."""
        sides = len(self.kernel)
        weight = self.kernels(V)
        if self.transposed:
            groups = torch.unflatten(weight, -2 - sides, (self.transposed, -1))
            swapped = groups.transpose(-2 - sides, -1 - sides)
            weight = swapped.flatten(-3 - sides, -2 - sides)
        return weight

    def kernels(self, V: Tensor) -> Tensor:
        """V (..., d, n) as (..., n, c, *kernel), whatever form the parameter has."""
        sides = len(self.kernel)
        by_position = V.reshape(*V.shape[:-2], *self.kernel, -1, V.shape[-1])
        return by_position.movedim((-1, -2), (-2 - sides, -1 - sides))

    def columns(self, kernels: Tensor) -> Tensor:
        """The inverse of `kernels`, for one layer: (d, n) of (n, c, *kernel)."""
        return kernels.permute(*range(2, kernels.ndim), 1, 0).reshape(-1, kernels.shape[0])


@dataclass(frozen=True)
class Candidate:
    """A layer that a method may be asked to cover.

    module: its name. type: of the module. on_demand: whether it is covered only where it is asked
    for. frozen: whether its parameter does not train. obstacle: why it cannot be covered at all.
    """

    layer: Layer
    module: str
    type: type[nn.Module]
    on_demand: bool
    frozen: bool
    obstacle: str | None = None

    @property
    def names(self) -> tuple[str, str]:
        """By which it can be asked for: the module's stands for all of its layers."""
        return self.layer.name, self.module


def candidates(network: nn.Module, per_group: bool = False) -> list[Candidate]:
    """All layers of the network, in module order; a weight that several modules share counts once,
    on demand only where it is so for all of them.

    per_group: an R for each group of a grouped convolution, see Note [Groups].
    Raises UserError for a module whose weight has no shape yet.
    """
    found: dict[object, Candidate] = {}
    for name, module in network.named_modules():
        for attribute, suffix, rows in _views(module, per_group):
            own = module._parameters.get(attribute)
            if isinstance(own, UninitializedParameter):
                raise UserError(f"layer {name!r} is lazy: run one batch through the network first")
            candidate = _candidate(name, module, attribute, suffix, rows)
            key = (id(module if own is None else own), attribute if own is None else "", rows)
            if key not in found or (found[key].on_demand and not candidate.on_demand):
                found.pop(key, None)
                found[key] = candidate
    default = [one.layer.parameter for one in found.values() if not one.on_demand]
    return [
        replace(one, layer=replace(one.layer, output=one.layer.parameter in default[-1:]))
        for one in found.values()
    ]


_View = tuple[str, str, tuple[int, int] | None]  # attribute, suffix of the name, rows


def _views(module: nn.Module, per_group: bool) -> Iterator[_View]:
    match module:
        case nn.Linear() | nn.Embedding() | nn.EmbeddingBag():
            yield "weight", "", None
        case (
            nn.Conv1d()
            | nn.Conv2d()
            | nn.Conv3d()
            | nn.ConvTranspose1d()
            | nn.ConvTranspose2d()
            | nn.ConvTranspose3d()
        ):
            if per_group and module.groups > 1 and module.out_channels > module.groups:
                yield from _blocks(
                    "weight", module.weight, [f"group{i}" for i in range(module.groups)]
                )
            else:
                yield "weight", "", None
        case nn.MultiheadAttention():
            if module.in_proj_weight is not None:
                yield from _blocks("in_proj_weight", module.in_proj_weight, "qkv")
            else:
                for projection in "qkv":
                    yield f"{projection}_proj_weight", projection, None
        case nn.LSTM() | nn.LSTMCell():
            yield from _gates(module, "ifgo")
        case nn.GRU() | nn.GRUCell():
            yield from _gates(module, "rzn")
        case nn.RNNBase() | nn.RNNCellBase():
            yield from _gates(module, "")


def _blocks(attribute: str, parameter: Tensor, names: Sequence[str]) -> Iterator[_View]:
    """Equal blocks of rows, see Note [Packed weights]."""
    rows = 0 if isinstance(parameter, UninitializedParameter) else len(parameter) // len(names)
    for i, name in enumerate(names):
        yield attribute, name, (i * rows, (i + 1) * rows)


def _gates(module: nn.Module, gates: str) -> Iterator[_View]:
    for attribute, parameter in module.named_parameters(recurse=False):
        if not attribute.startswith("weight"):
            continue
        if not gates or "_hr" in attribute:  # of an LSTM's projection, which has no gates
            yield attribute, attribute, None
        else:
            names = [f"{attribute}.{gate}" for gate in gates]
            yield from _blocks(attribute, parameter, names)


def _candidate(
    name: str, module: nn.Module, attribute: str, suffix: str, rows: tuple[int, int] | None
) -> Candidate:
    parameter: Tensor = getattr(module, attribute)
    weight = parameter if rows is None else parameter[slice(*rows)]
    transposed = 0
    n = weight.shape[0]
    if isinstance(module, _TRANSPOSED):
        transposed = module.groups if rows is None else 1
        n = weight.shape[1] * transposed
    layer = Layer(
        name=".".join(filter(None, (name, suffix))),
        parameter=".".join(filter(None, (name, attribute))),
        d=weight.numel() // max(1, n),
        n=n,
        kernel=tuple(weight.shape[2:]),
        stride=module.stride if isinstance(module, _CONVOLUTIONS) else (),
        rows=rows,
        transposed=transposed,
    )
    return Candidate(
        layer,
        module=name,
        type=type(module),
        on_demand=isinstance(module, _ON_DEMAND),
        frozen=attribute in module._parameters and not parameter.requires_grad,
        obstacle=_obstacle(name, module, attribute),
    )


def _obstacle(name: str, module: nn.Module, attribute: str) -> str | None:
    if attribute not in module._parameters:
        undo = (
            f"torch.nn.utils.parametrize.remove_parametrizations({name}, {attribute!r})"
            if parametrize.is_parametrized(module, attribute)
            else "torch.nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove"
        )
        return f"its {attribute} is made by another parametrization, not trained itself ({undo})"
    if module._parameters[attribute].numel() == 0:  # type: ignore[union-attr]
        return "it is empty"
    if getattr(module, "sparse", False):
        return "its gradient is sparse (sparse=True)"
    if getattr(module, "max_norm", None) is not None:
        return "it changes its weight in the forward pass (max_norm)"
    return None


def assembled(parameter: Tensor, parts: Sequence[tuple[Layer, Tensor]]) -> Tensor:
    """The parameter with the weights of these layers in their places, in its own type and memory
    layout."""
    (layer, weight), *_ = parts
    if layer.rows is not None:
        pieces: list[Tensor] = []
        done = 0
        for layer, weight in sorted(parts, key=lambda part: part[0].rows or ()):
            assert layer.rows is not None
            start, stop = layer.rows
            pieces += [parameter[done:start], weight]
            done = stop
        pieces.append(parameter[done:])
        weight = torch.cat([piece for piece in pieces if len(piece)])
    return _laid_out_as(parameter, weight.to(parameter.dtype))


def _laid_out_as(like: Tensor, weight: Tensor) -> Tensor:
    """`weight` in the memory layout of `like`."""
    channels_last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return weight.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
