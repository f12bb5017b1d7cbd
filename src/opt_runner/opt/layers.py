"""How the parameters of a module become W (d, n), and V (d, n) a parameter again.

This is the one place that knows types of modules. Neurons are the columns of W; d, the fan-in,
runs over the kernel's positions and then the input channels, channels fastest, as in the reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opt_runner.errors import UserError

_VIEWED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Layer:
    """A weight of the network seen as W (d, n).

    name: of its module. parameter: of the weight, in the network. kernel: the kernel's sides, ()
    for a linear layer. first, output: whether it is the first of those that a method covers, and
    the network's last, the classifier.
    """

    name: str
    parameter: str
    d: int
    n: int
    kernel: tuple[int, ...] = ()
    first: bool = False
    output: bool = False

    def matrix(self, weight: Tensor) -> Tensor:
        """W (d, n) of a weight (n, c, *kernel)."""
        return weight.permute(*range(2, weight.ndim), 1, 0).reshape(-1, weight.shape[0])

    def weight(self, V: Tensor, like: Tensor) -> Tensor:
        """The inverse of `matrix`: V (d, n) in the shape and the memory layout of `like`."""
        n, c, *kernel = like.shape
        weight = V.reshape(*kernel, c, n).permute(-1, -2, *range(len(kernel)))
        channels_last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
        return weight.contiguous(
            memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )


def hidden_and_output(network: nn.Module) -> tuple[list[str], str]:
    """Names of all modules with a W but the last one in module order, and of that last one.

    A weight that several modules share counts once. Raises UserError for fewer than two.
    """
    seen: dict[int, str] = {}
    for name, module in network.named_modules():
        if isinstance(module, _VIEWED):
            seen.setdefault(id(module.weight), name)
    names = list(seen.values())
    if len(names) < 2:
        raise UserError(
            f"{type(network).__name__} has {len(names)} linear or convolution layers; OPT needs "
            "two: one to rotate and the classifier after it (or name the layers: layers=[...])"
        )
    return names[:-1], names[-1]


def views(network: nn.Module, hidden: Sequence[str], output: str | None = None) -> list[Layer]:
    """The layers of these names. Raises UserError for a name that is no such layer."""
    modules = dict(network.named_modules())
    layers = []
    for position, name in enumerate([*hidden, *([] if output is None else [output])]):
        module = modules.get(name)
        if not isinstance(module, _VIEWED):
            raise UserError(f"layers: {name!r} is no linear or convolution layer of the network")
        if isinstance(module.weight, nn.parameter.UninitializedParameter):
            raise UserError(f"layer {name!r} is lazy: run one batch through the network first")
        n, *fan_in = module.weight.shape
        layers.append(
            Layer(
                name=name,
                parameter=f"{name}.weight" if name else "weight",
                d=module.weight.numel() // n,
                n=n,
                kernel=tuple(fan_in[1:]),
                first=position == 0,
                output=name == output,
            )
        )
    return layers
