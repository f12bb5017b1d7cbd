"""OPT (OR): R itself is the rotation, held near orthogonality by a penalty."""

from typing import Any

import torch
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import Coefficient, method_options, searched
from opt_runner.methods.kernels.fused import keeps_graph, transformed
from opt_runner.methods.kernels.linalg import gram
from opt_runner.methods.rotation import Rotation, SquareRotation


@method_options
class OrthogonalRegularization(SquareRotation):
    """V = R W, and the loss gains scale * sum over layers of ||R R^T - I||_F (not squared).

    The reference starts from N(0, 1), far from orthogonal: ||R R^T - I||_F is then about d^1.5,
    and a learning rate of 0.1 may end in NaN.
    """

    scale: Coefficient = 0.1

    colour = "#000000"
    search = searched(Rotation.search, scale="tag(log,interval(0.01,10))")

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        return R @ W

    def penalty(self, layer: Layer, W: Tensor, V: Tensor, step: int, R: Tensor) -> Tensor:
        distance = _distance(R) if transformed() else _Distance.apply(R)
        return self.scale * distance.sum()


class _Distance(torch.autograd.Function):
    """||E||_F of E = R R^T - I for R (k, d, d): (k,).

    Its derivative is 2 E R / ||E||_F; at E = 0, where there is none, 0 is taken.
    """

    @staticmethod
    def forward(ctx: Any, R: Tensor) -> Tensor:
        E = gram(R)
        E.diagonal(dim1=-2, dim2=-1).sub_(1)
        distance = torch.linalg.matrix_norm(E)
        ctx.save_for_backward(R, E, distance)
        return distance

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        R, E, distance = ctx.saved_tensors
        if keeps_graph():
            return torch.autograd.grad(_distance(R), R, g, create_graph=True)[0]
        factor = torch.where(distance > 0, 2 * g / distance, 0)
        return (E @ R).mul_(factor[:, None, None])


def _distance(R: Tensor) -> Tensor:
    """Return what `_Distance` does, by operations of torch alone."""
    E = R @ R.mT - torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    square = E.square().sum((-2, -1))
    return torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)
