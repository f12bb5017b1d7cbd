"""Convolutions start as orthogonal 1 x 1 convolutions and train plainly."""

import torch
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import MaybeGenerator, method_options
from opt_runner.methods.starts.orthogonal_init import OrthogonalInit, orthogonal


@method_options
class DeltaOrthogonal(OrthogonalInit):
    """W starts at 0 but at the kernel's centre, an orthogonal (c, n) matrix times `gain`.

    The centre of a side of k is position k // 2. A linear layer starts as in `orthogonal_init`.

    Source: Xiao et al., "Dynamical isometry and a mean field theory of CNNs" (ICML 2018).
    Departs: it has no such start for n < c, where no convolution keeps the length of its input;
    here the n neurons are orthogonal then, too.
    """

    colour = "#6F6757"

    def initial_weight(self, layer: Layer, W: Tensor, generator: MaybeGenerator) -> Tensor:
        weight = torch.zeros_like(layer.kernels(W))
        n, c, *kernel = weight.shape
        centre = weight
        for side in kernel:
            centre = centre[:, :, side // 2]
        centre.copy_(orthogonal(c, n, self.gain, generator).T)
        return layer.columns(weight)
