"""One rotated layer alone, as tasks to time: V = Q(R) W and dL/dR from a given G = dL/dV.

Between two samples R moves, as it does in training: a method that keeps something from the step
before must not find R where it left it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from opt_runner.bench import naive
from opt_runner.bench.timing import Task
from opt_runner.methods import Method
from opt_runner.rotations import RotationGroup

# How far R moves, in Frobenius norm: 0.05 to 0.33 a step were seen in CNN-6 at lr 0.1.
_MOVE = 0.2
_OGD_LR = 0.02


@dataclass(frozen=True)
class Layer:
    """R (d, d) from N(0, 1), W (d, n) from N(0, 2/d), G (d, n) of norm 1, all float32."""

    R: Tensor
    W: Tensor
    G: Tensor

    @classmethod
    def of(cls, d: int, n: int, device: torch.device) -> Self:
        generator = torch.Generator().manual_seed(0)
        R = torch.randn(d, d, generator=generator)
        W = torch.randn(d, n, generator=generator) * (2 / d) ** 0.5
        G = torch.randn(d, n, generator=generator)
        return cls(*(tensor.to(device) for tensor in (R, W, G / G.norm())))


def ours(method: Method, layer: Layer) -> Task:
    """The rotation as OPT runs it, with the method's penalty, and its optimizer's step where that
    is what keeps R orthogonal. (SGD's step is the same for all others and left out.)

    A method that takes a share of the rows rotates that share. The first R is the layer's, or I for
    methods that start there.
    """
    weights = {"weight": layer.W.T.contiguous()}
    rows = method.rows(len(layer.W), first=False)
    group = RotationGroup(weights, rows, method, torch.Generator().manual_seed(0))
    if method.start == "normal":
        group.R.data.copy_(layer.R)
    G = layer.G.T.contiguous()

    def rotate() -> None:
        outputs, gradients = [group(weights)["weight"]], [G]
        if (penalty := group.penalty()) is not None:
            outputs.append(penalty)
            gradients.append(torch.ones_like(penalty))
        torch.autograd.backward(outputs, gradients)

    if method.optimizer_class is torch.optim.SGD:
        return Task(rotate, prepare=_mover(group.R))
    options = method.rotation_group(lr=0.1, weight_decay=5e-4)
    optimizer = method.optimizer_class([{"params": [group.R], **options}], lr=0.1, momentum=0.9)

    def rotate_and_step() -> None:
        optimizer.zero_grad()
        rotate()
        optimizer.step()

    return Task(rotate_and_step)


def by_autograd(form: Callable[[Tensor], Tensor], layer: Layer) -> Task:
    """Q = form(R), then Q W, differentiated by autograd."""
    R = nn.Parameter(layer.R.clone())
    return Task(lambda: torch.autograd.backward(form(R) @ layer.W, layer.G), prepare=_mover(R))


def by_parametrization(parametrized: nn.Linear, layer: Layer) -> Task:
    """Q is the weight of a layer with a parametrization."""
    original = parametrized.get_parameter("parametrizations.weight.original")
    return Task(
        lambda: torch.autograd.backward(parametrized.weight @ layer.W, layer.G),
        prepare=_mover(original),
    )


def naive_or(layer: Layer) -> Task:
    """R W and the penalty, differentiated by autograd."""
    R = nn.Parameter(torch.eye(len(layer.R), device=layer.R.device))

    def rotate() -> None:
        torch.autograd.backward((R @ layer.W * layer.G).sum() + naive.penalty(R))

    return Task(rotate, prepare=_mover(R))


def naive_ogd(layer: Layer) -> Task:
    """R W, the dense gradient of R, and the retraction."""
    R = nn.Parameter(torch.eye(len(layer.R), device=layer.R.device))
    M = torch.zeros_like(layer.R)

    def rotate_and_step() -> None:
        nonlocal M
        torch.autograd.backward(R @ layer.W, layer.G)
        assert R.grad is not None
        R.data, M = naive.retraction(R.detach(), M, R.grad, lr=_OGD_LR)
        R.grad = None

    return Task(rotate_and_step)


def _mover(R: Tensor) -> Callable[[], None]:
    direction = torch.randn(R.shape, generator=torch.Generator().manual_seed(1)).to(R.device)
    direction *= _MOVE / direction.norm()

    @torch.no_grad()
    def move() -> None:
        R.add_(direction)
        R.grad = None

    return move
