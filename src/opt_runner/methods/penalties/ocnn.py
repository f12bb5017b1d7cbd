"""OCNN: convolutions, not only their kernels' matrices, are made orthogonal."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, conv3d

from opt_runner.layers import Layer
from opt_runner.methods.base import Coefficient, method_options, searched
from opt_runner.methods.penalties.penalty import Penalty, off_identity

_CONVOLUTIONS = {1: conv1d, 2: conv2d, 3: conv3d}


@method_options
class OrthogonalConvolution(Penalty):
    """The loss gains, for each layer, scale * (||K * K - I||_F^2 - delta).

    K * K is the correlation of the kernel with itself at every shift that is a multiple of the
    stride S, (n, n) a shift; I is the identity at shift 0 and 0 elsewhere.
    delta = max(0, n - S^2 c) is what no kernel of c channels can avoid. A linear layer has
    ||W^T W - I||_F^2, or that of W W^T where n > d. It is 0 for an orthogonal convolution alone.
    Groups are convolutions of their own; a transposed convolution has that of its transpose.

    first: whether the network's first layer is covered; published without, as it is unstable.

    Source: Wang et al., "Orthogonal convolutional neural networks" (CVPR 2020), in the form that
    is right for every kernel and stride: Achour, Malgouyres, Mamalet, "Existence, stability and
    scalability of orthogonal convolutional neural networks" (JMLR 2022), code deel-lip,
    regularizers.py. Departs: even kernels too. The published OCNN code is not used: its norm is
    not squared, and with stride 2 and padding 1 it compares shifts -1 and 1 and never shift 0.
    """

    scale: Coefficient = 0.01
    classifier: bool = False
    first: bool = False

    colour = "#7A9E1F"
    search = searched(scale="tag(log,interval(1e-4,0.1))")

    def covers(self, layer: Layer) -> bool:
        return super().covers(layer) and (self.first or not layer.first)

    def kind(self, layer: Layer) -> tuple[Any, ...]:
        return layer.kernel, layer.stride, layer.groups, layer.transposed

    def penalty(self, layer: Layer, W: Tensor, V: Tensor, step: int) -> Tensor:
        if not layer.kernel:
            return self.scale * off_identity(W).square().sum()
        K = torch.unflatten(layer.kernels(W), 1, (layer.groups, -1)).flatten(0, 1)
        K = K.transpose(1, 2) if layer.transposed else K
        return self.scale * convolution_distance(K, layer.stride).sum()


def convolution_distance(K: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Return ||K * K - I||_F^2 - delta for each kernel of K (k, n, c, *kernel): (k,)."""
    k, n, c, *kernel = K.shape
    sides = range(len(kernel))
    shifts = [(kernel[side] - 1) // stride[side] for side in sides]  # on either side of shift 0
    # One group a kernel: the input is a batch of n images, of all kernels' channels.
    images = K.transpose(0, 1).reshape(n, k * c, *kernel)
    correlate = _CONVOLUTIONS[len(kernel)]
    padding = [shifts[side] * stride[side] for side in sides]
    products = correlate(
        images, K.reshape(k * n, c, *kernel), stride=stride, padding=padding, groups=k
    )
    products = products.reshape(n, k, n, *products.shape[2:]).transpose(0, 1)
    at_0 = torch.zeros(products.shape[3:], dtype=K.dtype, device=K.device)
    at_0.view(-1)[at_0.numel() // 2] = 1  # as many shifts on the one side as on the other
    target = torch.eye(n, dtype=K.dtype, device=K.device).reshape(n, n, *(1 for _ in kernel)) * at_0
    delta = max(0, n - math.prod(stride) * c)
    return (products - target).square().flatten(1).sum(1) - delta
