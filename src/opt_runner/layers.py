"""How the weight of a module becomes W (d, n), and V (d, n) a weight again.

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

    name: of its module. parameter: of the weight, in the network. kernel, stride: of a convolution
    of that many dimensions, () for a linear layer. first: whether it is the first of the layers
    that OPT may cover. output: whether it is the network's last, the classifier.
    """

    name: str
    parameter: str
    d: int
    n: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    first: bool = False
    output: bool = False

    def matrix(self, weight: Tensor) -> Tensor:
        """W (d, n) of a weight (n, c, *kernel)."""
        return weight.permute(*range(2, weight.ndim), 1, 0).reshape(-1, weight.shape[0])

    def weight(self, V: Tensor) -> Tensor:
        """The inverse of `matrix`: a weight (..., n, c, *kernel) of V (..., d, n)."""
        sides = len(self.kernel)
        by_position = V.reshape(*V.shape[:-2], *self.kernel, -1, V.shape[-1])
        return by_position.movedim((-1, -2), (-2 - sides, -1 - sides))


def names(network: nn.Module) -> list[str]:
    """Names of all modules with a W, in module order; a weight that several share counts once."""
    seen: dict[int, str] = {}
    for name, module in network.named_modules():
        if isinstance(module, _VIEWED):
            seen.setdefault(id(module.weight), name)
    return list(seen.values())


def views(network: nn.Module, chosen: Sequence[str]) -> list[Layer]:
    """The layers of these names. Raises UserError for a name that is no such layer."""
    modules = dict(network.named_modules())
    last = names(network)[-1:]
    layers = []
    for position, name in enumerate(chosen):
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
                stride=() if isinstance(module, nn.Linear) else tuple(module.stride),
                first=position == 0,
                output=name in last,
            )
        )
    return layers


def laid_out_as(like: Tensor, weight: Tensor) -> Tensor:
    """`weight` in the memory layout of `like`."""
    channels_last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return weight.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
