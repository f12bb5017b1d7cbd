"""OFT: Q is block-diagonal, its blocks Cayley transforms."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from opt_runner.layers import Layer
from opt_runner.methods.base import MaybeGenerator, Tensors, method_options
from opt_runner.methods.maps.blocks import act, cayley_blocks, divisor_near
from opt_runner.methods.rotation import Rotation

if TYPE_CHECKING:
    from opt_runner.methods.stack import Stack


@method_options
class OrthogonalFinetuning(Rotation):
    """V = diag(Q_1, ..., Q_r) W with r = d / b Cayley transforms of b x b: R is (r, b, b), from 0.

    block: b, or the divisor of d nearest to it.
    constrained: COFT: after each step every block's A is scaled back to ||A||_F <= eps b^2 /
        sqrt(r), by which Q stays near I.
    rescaled: V D instead, with a diagonal D that trains from I: neurons' lengths are free.

    Source: Qiu et al., "Controlling text-to-image diffusion by orthogonal finetuning" (NeurIPS
    2023); code github.com/Zeju1997/oft, oft-control/oft.py, whose eps this is; blocks of 32 and
    the strict upper triangle as peft. Departs: of a full A the code takes (A - A^T) / 2, which
    moves half as far, and the inverse of Q. Its convolution does not rotate neurons; this does.
    """

    block: Annotated[int, Field(gt=1, le=100_000)] = 32
    constrained: bool = False
    eps: Annotated[float, Field(gt=0, le=1e6)] = 1e-3
    rescaled: bool = False

    family = "maps"
    colour = "#7B2D9E"

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        block = divisor_near(layer.d, self.block)
        R = torch.zeros(layer.d // block, block, block)
        return {"R": R, "D": torch.ones(layer.n)} if self.rescaled else {"R": R}

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        return act(cayley_blocks(R), W)

    def weight(self, W: Tensor, R: Tensor, D: Tensor | None = None) -> Tensor:
        V = self.rotate(R, W)
        return V if D is None else V * D.unsqueeze(-2)

    @property
    def follows_steps(self) -> bool:
        return self.constrained

    def after_step(self, stacks: "Sequence[Stack]", step: int, optimizer: Optimizer) -> None:
        if not self.constrained:
            return
        for stack in stacks:
            R = stack.trained["R"]
            _, r, b, _ = R.shape
            R.triu_(1)
            # A has each entry of the triangle twice.
            norms = 2**0.5 * torch.linalg.matrix_norm(R, keepdim=True)
            R.mul_((self.eps * b**2 / r**0.5 / norms.clamp(min=1e-30)).clamp(max=1))
