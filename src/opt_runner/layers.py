"""How the weights of a network become W (d, n), and V (d, n) a weight again.

Neurons are the columns of W; d, the fan-in, runs over the kernel's positions and then the input
channels, channels fastest, as in the reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
