"""One layer alone, our rotations beside the alternatives: V = Q(R) W and dL/dR from G = dL/dV.

Between two samples R moves, as in training: a method that caches something from the last step must
not find R where it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Self

import torch
from torch import Tensor, nn

from benchmarks import naive
from benchmarks.report import Column, Report, Row, Settings, say, table
from benchmarks.samples import Sampler, Summary, Task, attempted, interleaved, sampler
from opt_runner import OPT, Rule
from opt_runner.methods import METHODS, Method

_COLUMNS = 64
# Seconds: a task that took longer in all is sampled three times only.
_BUDGET = 10.0
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
        """Draw a layer, the same at every call."""
        generator = torch.Generator().manual_seed(0)
        R = torch.randn(d, d, generator=generator)
        W = torch.randn(d, n, generator=generator) * (2 / d) ** 0.5
        G = torch.randn(d, n, generator=generator)
        return cls(*(tensor.to(device) for tensor in (R, W, G / G.norm())))


Build = Callable[[Layer], Task]
Call = Callable[[], None]


def _ours(method: Method, layer: Layer) -> Task:
    """Return the task of V as OPT makes it, with the method's penalty.

    An optimizer of the method's own keeps R orthogonal and is timed too. SGD is not.
    """
    rotate, rotate_and_step, R = _training(method, layer)
    if method.optimizer_class is torch.optim.SGD:
        return Task(rotate, prepare=_mover(R))
    return Task(rotate_and_step)


def two_steps(method: Method, layer: Layer) -> None:
    """Build R and its optimizer and make two steps, after which all of their memory is in use."""
    _, rotate_and_step, _ = _training(method, layer)
    rotate_and_step()
    rotate_and_step()


def _training(method: Method, layer: Layer) -> tuple[Call, Call, Tensor]:
    """Return forward and backward, the same with the optimizer's step, and R at its start."""
    d, n = layer.W.shape
    linear = nn.Linear(d, n, bias=False, device=layer.W.device)
    linear.weight.data.copy_(layer.W.T)
    # `sopt` rotates the first layer of a network whole, so another one stands before.
    network = nn.Sequential(nn.Linear(1, 1, bias=False, device=layer.W.device), linear)
    rules = [Rule("standard", include=["0"]), Rule(method, include=["1"])]
    opt = OPT(network, rules, generator=torch.Generator().manual_seed(0))
    optimizer, G = opt.optimizer(lr=0.1), layer.G.T.contiguous()

    def rotate() -> None:
        V = opt.effective_weights()["1.weight"]
        outputs, gradients = [V], [G]
        if method.has_penalty:
            outputs.append(opt.penalty())
            gradients.append(torch.ones_like(outputs[1]))
        torch.autograd.backward(outputs, gradients)

    def rotate_and_step() -> None:
        optimizer.zero_grad()
        rotate()
        optimizer.step()

    *_, stack = opt.stacks
    return rotate, rotate_and_step, next(stack.parameters())


def _by_autograd(form: Callable[[Tensor], Tensor]) -> Build:
    """Return the task of form(R) W, differentiated by autograd."""

    def build(layer: Layer) -> Task:
        R = nn.Parameter(layer.R.clone())
        return Task(lambda: torch.autograd.backward(form(R) @ layer.W, layer.G), prepare=_mover(R))

    return build


def _naive_or(layer: Layer) -> Task:
    """Return the task of R W and the penalty, differentiated by autograd."""
    R = nn.Parameter(torch.eye(len(layer.R), device=layer.R.device))

    def rotate() -> None:
        torch.autograd.backward((R @ layer.W * layer.G).sum() + naive.penalty(R))

    return Task(rotate, prepare=_mover(R))


def _naive_ogd(layer: Layer) -> Task:
    """Return the task of R W, the dense gradient of R, and the retraction."""
    R = nn.Parameter(torch.eye(len(layer.R), device=layer.R.device))
    M = torch.zeros_like(layer.R)

    def rotate_and_step() -> None:
        nonlocal M
        torch.autograd.backward(R @ layer.W, layer.G)
        assert R.grad is not None
        R.data, M = naive.retraction(R.detach(), M, R.grad, lr=_OGD_LR)
        R.grad = None

    return Task(rotate_and_step)


def _mover(R: Tensor) -> Call:
    """Return a function that moves R."""
    direction = torch.randn(R.shape, generator=torch.Generator().manual_seed(1)).to(R.device)
    direction *= _MOVE / direction.norm()

    @torch.no_grad()
    def move() -> None:
        R.add_(direction)
        R.grad = None

    return move


def _made(name: str, **options: Any) -> Method:
    return METHODS[name](**options)


def _by_library(constraint: str, **arguments: Any) -> Build:
    """Return the task of another library's parametrization of Q."""
    return partial(_ours, _made("parametrization", constraint=constraint, arguments=arguments))


# Methods by their names in the tables: sopt with each of its inner maps.
ROTATING: dict[str, Method] = {
    **{name: cls() for name, cls in METHODS.items() if cls().changes_weight and name != "sopt"},
    **{f"sopt ({inner})": _made("sopt", inner=inner) for inner in ("gs", "hr", "ls", "cayley")},
}
OURS: dict[str, Build] = {name: partial(_ours, method) for name, method in ROTATING.items()}

# Without trivialization, which would add a product with a base.
_torch = partial(
    _by_library, "torch.nn.utils.parametrizations.orthogonal", use_trivialization=False
)
# Other ways to the rotation of one of our methods, or the nearest to it.
ALTERNATIVES: dict[str, tuple[str, Build]] = {
    "torch cayley": ("cayley", _torch(orthogonal_map="cayley")),
    "torch matrix_exp": ("cayley", _torch(orthogonal_map="matrix_exp")),
    "torch householder": ("hr", _torch(orthogonal_map="householder")),
    "Gram-Schmidt loop": ("gs", _by_autograd(naive.gram_schmidt_loop)),
    "QR, autograd": ("gs", _by_autograd(naive.gram_schmidt_qr)),
    "Householder loop": ("hr", _by_autograd(naive.householder_loop)),
    "SVD, autograd": ("ls", _by_autograd(naive.lowdin_svd)),
    "inverse, autograd": ("cayley", _by_autograd(naive.cayley_inverse)),
    "dense retraction": ("ogd", _naive_ogd),
    "penalty, autograd": ("or", _naive_or),
}
if find_spec("geotorch"):
    ALTERNATIVES |= {
        f"geotorch {triv}": ("cayley", _by_library("geotorch.orthogonal", triv=triv))
        for triv in ("cayley", "expm")
    }


def samplers_of(
    ways: Mapping[str, Build], layer: Layer, device: torch.device
) -> tuple[dict[str, Sampler], dict[str, str]]:
    """Return a sampler for each way that runs, and the errors of the others."""
    tasks, errors = attempted({name: partial(ways[name], layer) for name in ways})
    made, not_run = attempted({name: partial(sampler, tasks[name], device) for name in tasks})
    return made, errors | not_run


def run(settings: Settings) -> Report:
    """Measure both sizes."""
    report = Report(n=settings.count(15))
    columns: dict[str, Column] = {"form": "name", "ms": ("seconds", 1000)}
    columns |= {"beside": "variant", "times ours": "factor"}
    for d in (16, 24) if settings.quick else (576, 1024):
        say(f"rotations: d = {d}, n = {report.n}")
        rows = _size(d, report.n, settings)
        report.rows += rows
        title = f"One layer, d = {d}, {_COLUMNS} columns: median [quartiles]"
        report.tables.append(table(title, columns, rows))
    report.notes += [
        f"forward and backward of one layer d x {_COLUMNS}, float32, in one process, samples "
        f"interleaved; n is smaller, but at least 3, where the samples took over {_BUDGET:g} s",
        "geotorch is left out where it is not installed (pip install 'opt-runner[bench]')",
        "ogd includes its optimizer's step and `or` its penalty, in both forms; R moves between "
        "samples, untimed",
        "matrix_exp and expm have no counterpart among ours: they stand beside cayley, which "
        "parametrizes the same group by the same skew-symmetric matrices",
    ]
    return report


def _size(d: int, samples: int, settings: Settings) -> list[Row]:
    """Return the rows of ours, then of the alternatives with their times as multiples of ours."""
    device = settings.used.torch_device
    ways = {**OURS, **{name: build for name, (_, build) in ALTERNATIVES.items()}}
    samplers, errors = samplers_of(ways, Layer.of(d, _COLUMNS, device), device)
    if failed := errors.keys() & OURS.keys():
        raise RuntimeError(f"d = {d}: " + "; ".join(f"{name}: {errors[name]}" for name in failed))
    taken = interleaved(samplers, samples, _BUDGET)
    seconds = {name: Summary.of(of_one) for name, of_one in taken.items()}
    rows: list[Row] = []
    for name in ways:
        row: Row = {"d": d, "columns": _COLUMNS, "ours": name in OURS, "name": name}
        row |= {"error": errors.get(name), "seconds": seconds.get(name)}
        if name in ALTERNATIVES:
            row["variant"] = ours = ALTERNATIVES[name][0]
            if name in seconds:
                row["factor"] = seconds[name].median / seconds[ours].median
        rows.append(row)
    return rows
