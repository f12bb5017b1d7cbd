"""One layer alone, as tasks to time: V = Q(R) W and dL/dR from a given G = dL/dV.

Ours, and the alternatives to it. Between two samples R moves, as it does in training: a method
that keeps something from the step before must not find R where it left it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from opt_runner import layers
from opt_runner.bench import naive
from opt_runner.bench.samples import Sampler, Task, attempted, sampler
from opt_runner.methods import METHODS, Method
from opt_runner.methods.sopt import StochasticOPT
from opt_runner.methods.stack import Stack

# How far R moves, in Frobenius norm: 0.05 to 0.33 a step were seen in CNN-6 at lr 0.1.
_MOVE = 0.2
_OGD_LR = 0.02
_ORIGINAL = "parametrizations.weight.original"


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


Build = Callable[[Layer], Task]
# Registers a library's parametrization for the weight of a layer.
Register = Callable[[nn.Linear], object]


def _ours(method: Method, layer: Layer) -> Task:
    """The effective weight as OPT makes it, with the method's penalty, and its optimizer's step
    where that is what keeps R orthogonal. (SGD's step is the same for all others and left out.)
    """
    rotate, rotate_and_step, R = _training(method, layer)
    if method.optimizer_class is torch.optim.SGD:
        return Task(rotate, prepare=_mover(R))
    return Task(rotate_and_step)


def two_steps(method: Method, layer: Layer) -> None:
    """Build what trains and make two steps, after which all that is kept from step to step is."""
    _, rotate_and_step, _ = _training(method, layer)
    rotate_and_step()
    rotate_and_step()


def _training(
    method: Method, layer: Layer
) -> tuple[Callable[[], None], Callable[[], None], Tensor]:
    """Forward and backward; the same with the optimizer's step; R.

    A method that takes a share of the rows rotates that share. R starts as it does in training.
    """
    d, n = layer.W.shape
    view = layers.Layer(name="", parameter="weight", d=d, n=n)
    stack = Stack(_linear(layer.W.T), [view], method, torch.Generator().manual_seed(0))
    R, G = stack.trained["R"], layer.G.T.contiguous()
    weight = stack.parameter(view)

    def rotate() -> None:
        V = stack.V()
        outputs, gradients = [layers.assembled(weight, stack.as_weights(V))], [G]
        if method.has_penalty:
            penalty = method.penalty(view, stack.W(), V, step=1, **stack.tensors)
            assert penalty is not None
            outputs.append(penalty)
            gradients.append(torch.ones_like(penalty))
        torch.autograd.backward(outputs, gradients)

    groups = [
        {"params": [tensor], **method.optimizer_options(name, lr=0.1, weight_decay=5e-4)}
        for name, tensor in stack.trained.items()
    ]
    optimizer = method.optimizer_class(groups, lr=0.1, momentum=0.9)

    def rotate_and_step() -> None:
        optimizer.zero_grad()
        rotate()
        optimizer.step()

    return rotate, rotate_and_step, R


def _by_autograd(form: Callable[[Tensor], Tensor]) -> Build:
    """Q = form(R), then Q W, differentiated by autograd."""

    def build(layer: Layer) -> Task:
        R = nn.Parameter(layer.R.clone())
        return Task(lambda: torch.autograd.backward(form(R) @ layer.W, layer.G), prepare=_mover(R))

    return build


def _by_library(register: Register) -> Build:
    """Q W with Q the weight of a layer that has a parametrization."""

    def build(layer: Layer) -> Task:
        linear = parametrized(register, layer.R)
        return Task(
            lambda: torch.autograd.backward(linear.weight @ layer.W, layer.G),
            prepare=_mover(linear.get_parameter(_ORIGINAL)),
        )

    return build


def parametrized(register: Register, R: Tensor) -> nn.Linear:
    """A layer whose weight is Q, d x d, made of R by a library's parametrization."""
    linear = _linear(R)
    register(linear)
    return linear


def torch_map(orthogonal_map: str) -> Register:
    """Without trivialization, as it then starts from R and saves a product with its base."""
    return lambda linear: orthogonal(linear, "weight", orthogonal_map, use_trivialization=False)


def geotorch_map(triv: str) -> Register:
    """geotorch must be installed. Q is base @ Q(R): it has no form without a base."""

    def register(linear: nn.Linear) -> None:
        R = linear.weight.detach().clone()
        import_module("geotorch").orthogonal(linear, "weight", triv)
        with torch.no_grad():
            linear.get_parameter(_ORIGINAL).copy_(R)

    return register


def _linear(weight: Tensor) -> nn.Linear:
    n, d = weight.shape
    layer = nn.Linear(d, n, bias=False, device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def _naive_or(layer: Layer) -> Task:
    """R W and the penalty, differentiated by autograd."""
    R = nn.Parameter(torch.eye(len(layer.R), device=layer.R.device))

    def rotate() -> None:
        torch.autograd.backward((R @ layer.W * layer.G).sum() + naive.penalty(R))

    return Task(rotate, prepare=_mover(R))


def _naive_ogd(layer: Layer) -> Task:
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


def _sopt(inner: str) -> Method:
    options: dict[str, Any] = {"inner": inner}
    return StochasticOPT(**options)


# Our methods by the names that they have in the tables: sopt with each map that it can have inside.
ROTATING: dict[str, Method] = {
    **{name: cls() for name, cls in METHODS.items() if cls().changes_weight and name != "sopt"},
    **{f"sopt ({inner})": _sopt(inner) for inner in ("gs", "hr", "ls", "cayley")},
}
OURS: dict[str, Build] = {name: partial(_ours, method) for name, method in ROTATING.items()}


@dataclass(frozen=True)
class Alternative:
    """Another way to the rotation of our method `variant`, or the nearest thing to it."""

    name: str
    variant: str
    build: Build


ALTERNATIVES = (
    Alternative("torch cayley", "cayley", _by_library(torch_map("cayley"))),
    Alternative("torch matrix_exp", "cayley", _by_library(torch_map("matrix_exp"))),
    Alternative("torch householder", "hr", _by_library(torch_map("householder"))),
    Alternative("Gram-Schmidt loop", "gs", _by_autograd(naive.gram_schmidt_loop)),
    Alternative("QR, autograd", "gs", _by_autograd(naive.gram_schmidt_qr)),
    Alternative("Householder loop", "hr", _by_autograd(naive.householder_loop)),
    Alternative("SVD, autograd", "ls", _by_autograd(naive.lowdin_svd)),
    Alternative("inverse, autograd", "cayley", _by_autograd(naive.cayley_inverse)),
    Alternative("dense retraction", "ogd", _naive_ogd),
    Alternative("penalty, autograd", "or", _naive_or),
)

GEOTORCH = (
    Alternative("geotorch cayley", "cayley", _by_library(geotorch_map("cayley"))),
    Alternative("geotorch expm", "cayley", _by_library(geotorch_map("expm"))),
)


def samplers_of(
    ways: Mapping[str, Build], layer: Layer, device: torch.device
) -> tuple[dict[str, Sampler], dict[str, str]]:
    """What samples each of these ways, by name, and the errors of those that do not run."""

    def warmed_up(build: Build) -> Sampler:
        return sampler(build(layer), device)

    return attempted({name: partial(warmed_up, build) for name, build in ways.items()})
