"""BOFT: Q is a product of block-diagonal rotations of more and more distant coordinates."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import MaybeGenerator, Tensors, method_options
from opt_runner.methods.maps.blocks import act, cayley_blocks, divisor_near
from opt_runner.methods.rotation import Rotation


@method_options
class ButterflyFinetuning(Rotation):
    """V = B_m ... B_1 W, B_i = P_i diag(Cayley transforms of b x b) P_i^T: R is (m, d/b, b, b), 0.

    P_i is the butterfly: of every 2^i neighbouring half blocks, of b/2 coordinates each, it joins
    one of the first half to one of the second half. B_1 joins neighbours, as `oft` does.

    block: b, or the divisor of d nearest to it. factors: m; a layer has fewer where b is odd or
        b 2^(m-1) does not divide d.

    Source: Liu et al., "Parameter-efficient orthogonal finetuning via butterfly factorization"
    (ICLR 2024); permutations as in peft, tuners/boft/layer.py, by reshaping instead of d x d
    matrices. Departs: the code has a trained scale a neuron, here left out as it changes lengths;
    without its CUDA extension the code has m = 1.
    """

    block: Annotated[int, Field(gt=1, le=100_000)] = 8
    factors: Annotated[int, Field(gt=0, le=64)] = 3

    family = "maps"
    colour = "#A35BC4"

    def sizes(self, d: int) -> tuple[int, int]:
        """Return b and m for a layer."""
        b = divisor_near(d, self.block)
        if b % 2:
            return b, 1
        return b, max(m for m in range(1, self.factors + 1) if d % (b * 2 ** (m - 1)) == 0)

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        b, m = self.sizes(layer.d)
        return {"R": torch.zeros(m, layer.d // b, b, b)}

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        k, d, n = W.shape
        b = R.shape[-1]
        Q = cayley_blocks(R)
        V = act(Q[:, 0], W)
        for i in range(1, R.shape[1]):
            # (two halves) x (2^i half blocks in each) -> each half block beside its partner.
            apart = (k, -1, 2, 2**i, b // 2, n)
            together = V.reshape(apart).transpose(2, 3).reshape(k, d, n)
            joined = act(Q[:, i], together).reshape(k, -1, 2**i, 2, b // 2, n)
            V = joined.transpose(2, 3).reshape(k, d, n)
        return V
