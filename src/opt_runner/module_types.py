"""Which parameters of a module hold layers, by the type of the module.

Note [Packed weights]: PyTorch keeps several maps in one parameter where one product computes them
all, such as q, k and v of attention, the gates of an LSTM or the experts of a mixture. Each is a
layer with a W of its own.

Note [Groups]: the neurons of a grouped convolution are one layer with one R, as the paper gives
each layer one R: the angles between all of its neurons stay. With an R for each group only those
inside a group do, for `groups` times as many parameters. A group with a single neuron, for example
in a depthwise convolution, has no angles to keep: there the layer has one R in any case.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from opt_runner.errors import UserError

# {name of a parameter: its axes}, see `register_layer`.
Axes = Mapping[str, str]


@dataclass(frozen=True)
class View:
    """A part of a module's parameter that is a layer.

    attribute: the parameter. suffix: of the layer's name. rows: from where to where along the
    first dimension, None for all. axes: as `register_layer` takes them; "" for PyTorch's modules.
    """

    attribute: str
    suffix: str = ""
    rows: tuple[int, int] | None = None
    axes: str = ""


@dataclass(frozen=True)
class _Entry:
    parameters: Axes | Callable[[nn.Module], Axes]
    named_only: bool = False


def register_layer(
    module_type: type[nn.Module] | str,
    parameters: Axes | Callable[[nn.Module], Axes],
    *,
    named_only: bool = False,
) -> None:
    """Let OPT cover the matrices of a type of module, and of the types derived from it.

    module_type: the class, or its dotted name, as "my_package.layers.Projection".
    parameters: {name of a parameter: its axes}, or a function of a module that returns that. The
        axes are a word of letters with spaces between them: `n` the neurons, which are the outputs;
        `d` inputs, one axis or more; a leading `k` for several maps in one parameter, each of which
        becomes a layer. `torch.nn.Linear` has "n d", a matrix of `x @ weight` "d n", experts
        (experts, out, in) "k n d". A parameter that a module does not have is passed over.
    named_only: cover such layers only where `include` or `types` names them.

    Raises UserError for axes that are none of these.
    """
    if not callable(parameters):
        for axes in parameters.values():
            _check_axes(axes)
    _registered[module_type] = _Entry(parameters, named_only)


def _check_axes(axes: str) -> None:
    letters = axes.split()
    maps = letters[:1].count("k")
    inputs = letters[maps:].count("d")
    if letters.count("n") != 1 or not inputs or maps + 1 + inputs != len(letters):
        raise UserError(
            f"axes {axes!r}: give one n (neurons), one d or more (inputs) and, for several maps in "
            "one parameter, a k before them, such as 'n d', 'd n' or 'k n d'"
        )


def _experts(module: nn.Module) -> Axes:
    """Return the axes of transformers' experts, which say themselves how they are stored."""
    axes = "k d n" if getattr(module, "is_transposed", False) else "k n d"
    names = ("gate_up_proj", "gate_proj", "up_proj", "down_proj")
    return {name: axes for name in names if getattr(module, name, None) is not None}


_TRANSFORMERS = "transformers.models"
_PYG = "torch_geometric.nn"
_registered: dict[type[nn.Module] | str, _Entry] = {
    nn.Bilinear: _Entry({"weight": "n d d"}, named_only=True),
    "transformers.pytorch_utils.Conv1D": _Entry({"weight": "d n"}),
    f"{_TRANSFORMERS}.llama4.modeling_llama4.Llama4TextExperts": _Entry(
        {"gate_up_proj": "k d n", "down_proj": "k d n"}
    ),
    f"{_TRANSFORMERS}.*ParallelExperts": _Entry({"weight": "k n d"}),
    f"{_TRANSFORMERS}.*Experts": _Entry(_experts),
    f"{_PYG}.dense.linear.Linear": _Entry({"weight": "n d"}),
    f"{_PYG}.dense.linear.HeteroLinear": _Entry({"weight": "k d n"}),
    f"{_PYG}.conv.dna_conv.Linear": _Entry({"weight": "k d n"}),
    f"{_PYG}.conv.rgcn_conv.RGCNConv": _Entry({"weight": "k d n", "root": "d n"}),
    f"{_PYG}.conv.rgat_conv.RGATConv": _Entry({"weight": "k d n", "basis": "k d n"}),
    f"{_PYG}.conv.gated_graph_conv.GatedGraphConv": _Entry({"weight": "k d n"}),
    f"{_PYG}.conv.gcn2_conv.GCN2Conv": _Entry({"weight1": "d n", "weight2": "d n"}),
    f"{_PYG}.conv.spline_conv.SplineConv": _Entry({"weight": "d d n"}),
    f"{_PYG}.conv.arma_conv.ARMAConv": _Entry(
        {"init_weight": "k d n", "weight": "k d n", "root_weight": "k d n"}
    ),
}

CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_NAMED_ONLY = (*EMBEDDINGS, nn.RNNBase, nn.RNNCellBase)
_BUILT_IN = (nn.Linear, nn.MultiheadAttention, *CONVOLUTIONS, *_NAMED_ONLY)


def dotted(cls: type) -> str:
    """Return the dotted name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def base(module: nn.Module) -> type | None:
    """Return the type, one of the module's or of those it derives from, that OPT knows; or None."""
    return next((cls for cls in type(module).__mro__ if cls in _BUILT_IN or _entry(cls)), None)


def named_only(module: nn.Module) -> bool:
    """Return True if the module's layers are covered only where they are named."""
    known = base(module)
    entry = known and _entry(known)
    return entry.named_only if entry else isinstance(module, _NAMED_ONLY)


def _entry(cls: type) -> _Entry | None:
    name = dotted(cls)
    for key in (cls, name):
        if key in _registered:
            return _registered[key]
    patterns = (key for key in _registered if isinstance(key, str) and "*" in key)
    return next((_registered[key] for key in patterns if fnmatchcase(name, key)), None)


def views(module: nn.Module, per_group: bool) -> Iterator[View]:
    """Yield the layers of a module; per_group: see Note [Groups]."""
    known = base(module)
    if known is None:
        return
    if entry := _entry(known):
        yield from _registered_views(module, entry)
        return
    match module:
        case nn.Linear() | nn.Embedding() | nn.EmbeddingBag():
            yield View("weight")
        case _ if isinstance(module, CONVOLUTIONS):
            if per_group and module.groups > 1 and module.out_channels > module.groups:
                names = [f"group{i}" for i in range(module.groups)]
                yield from _blocks("weight", module.weight, names)
            else:
                yield View("weight")
        case nn.MultiheadAttention():
            if module.in_proj_weight is not None:
                yield from _blocks("in_proj_weight", module.in_proj_weight, "qkv")
            else:
                for projection in "qkv":
                    yield View(f"{projection}_proj_weight", projection)
        case nn.LSTM() | nn.LSTMCell():
            yield from _gates(module, "ifgo")
        case nn.GRU() | nn.GRUCell():
            yield from _gates(module, "rzn")
        case nn.RNNBase() | nn.RNNCellBase():
            yield from _gates(module, "")


def _registered_views(module: nn.Module, entry: _Entry) -> Iterator[View]:
    parameters = entry.parameters
    for attribute, axes in (parameters(module) if callable(parameters) else parameters).items():
        parameter = getattr(module, attribute, None)
        if not isinstance(parameter, Tensor):
            continue
        letters = len(axes.split())
        fits = parameter.ndim >= letters if axes.startswith("k") else parameter.ndim == letters
        if not isinstance(parameter, UninitializedParameter) and not fits:
            raise UserError(
                f"{dotted(type(module))}.{attribute} has {parameter.ndim} dimensions, and is "
                f"registered with the axes {axes!r}"
            )
        suffix = "" if attribute == "weight" else attribute
        if isinstance(parameter, UninitializedParameter) or not axes.startswith("k"):
            yield View(attribute, suffix, axes=axes)
            continue
        maps = prod(parameter.shape[: leading(axes, parameter)])
        for i in range(maps):
            yield View(attribute, f"{suffix}.{i}".lstrip("."), (i, i + 1), axes)


def leading(axes: str, parameter: Tensor) -> int:
    """Return the number of axes of several maps: `k` stands for all that no letter has."""
    return parameter.ndim - len(axes.split()) + 1 if axes.startswith("k") else 0


def _blocks(attribute: str, parameter: Tensor, names: Sequence[str]) -> Iterator[View]:
    """Yield equal blocks of rows, see Note [Packed weights]."""
    rows = 0 if isinstance(parameter, UninitializedParameter) else len(parameter) // len(names)
    for i, name in enumerate(names):
        yield View(attribute, name, (i * rows, (i + 1) * rows))


def _gates(module: nn.Module, gates: str) -> Iterator[View]:
    for attribute, parameter in module.named_parameters(recurse=False):
        if not attribute.startswith("weight"):
            continue
        if not gates or "_hr" in attribute:  # of an LSTM's projection, which has no gates
            yield View(attribute, attribute)
        else:
            yield from _blocks(attribute, parameter, [f"{attribute}.{gate}" for gate in gates])
