"""Every penalty against a sum written by hand, of three neurons."""

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from opt_runner import OPT
from opt_runner.layers import Layer
from opt_runner.methods import METHODS
from opt_runner.methods.penalties.ocnn import convolution_distance
from opt_runner.methods.starts.delta_orthogonal import DeltaOrthogonal
from tests.small import small_cnn

# d = 2, n = 3: two at 60 degrees, lengths 1 and 2, and one of length 1/2 at 150 degrees.
W = torch.tensor(
    [[1.0, 2 * math.cos(math.pi / 3), 0.5 * math.cos(5 * math.pi / 6)],
     [0.0, 2 * math.sin(math.pi / 3), 0.5 * math.sin(5 * math.pi / 6)]],
    dtype=torch.float64,
)  # fmt: skip
HIDDEN = Layer("a", "a.weight", 2, 3)
OUTPUT = Layer("b", "b.weight", 2, 3, output=True)


def penalty(name: str, layer: Layer = HIDDEN, of: Tensor = W, step: int = 1, **options) -> float:
    stack = of.unsqueeze(0)
    return float(METHODS[name](**options).penalty(layer, stack, stack, step=step))


def by_hand(power: int, angular: bool, half: bool) -> float:
    columns = [[float(x) for x in column] for column in W.T]
    if half:
        columns += [[-x for x in column] for column in columns]
    energies = []
    for u, v in combinations(columns, 2):
        lengths = [math.sqrt(a * a + b * b + 1e-4) for a, b in (u, v)]
        cosine = (u[0] * v[0] + u[1] * v[1]) / (lengths[0] * lengths[1])
        if angular:
            cosine = max(-1 + 1e-6, min(1 - 1e-6, cosine))
            angle = math.acos(cosine) / math.pi + 1e-4
            energies.append(-math.log(angle) if power == 0 else angle**-power)
        else:
            squared = 2 - 2 * cosine
            energies.append(-math.log(squared) if power == 0 else squared ** (-power / 2))
    return sum(energies) / len(energies)


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("angular", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_mhe(power: int, angular: bool, half: bool) -> None:
    options = {"power": power, "angular": angular, "half": half}
    authors = 0.1 if angular and power else 1
    expected = by_hand(**options)
    assert penalty("mhe", **options) == pytest.approx(authors * expected, rel=1e-9)
    full = by_hand(**{**options, "half": False})
    assert penalty("mhe", OUTPUT, **options) == pytest.approx(10 * authors * full, rel=1e-9)
    weighted = penalty("mhe", **options, hidden_weight=3.0)
    assert weighted == pytest.approx(3 * expected, rel=1e-9)


def test_comhe() -> None:
    layer = Layer("a", "a.weight", 2, 3)
    torch.manual_seed(3)
    found = penalty("comhe", layer, dimensions=4, projections=2)
    torch.manual_seed(3)
    P = torch.randn(8, 2, dtype=torch.float64)
    means = []
    for projected in (P[:4] @ W, P[4:] @ W):
        neurons = torch.cat([projected, -projected], dim=1)
        lengths = (neurons.square().sum(0) + 1e-4).sqrt()
        terms = [
            1 / (2 - 2 * float(neurons[:, i] @ neurons[:, j] / lengths[i] / lengths[j]))
            for i, j in combinations(range(6), 2)
        ]
        means.append(sum(terms) / len(terms))
    assert found == pytest.approx(sum(means) / 2, rel=1e-9)
    first = Layer("a", "a.weight", 2, 3, first=True)
    half = by_hand(2, angular=False, half=True)
    assert penalty("comhe", first) == pytest.approx(half, rel=1e-9), "not projected"
    full = by_hand(2, angular=False, half=False)
    assert penalty("comhe", OUTPUT) == pytest.approx(10 * full, rel=1e-9)


def test_mma() -> None:
    """Nearest angles: 60 and 60 degrees, and 90 from the third to the second."""
    expected = -0.07 * (math.pi / 3 + math.pi / 3 + math.pi / 2) / 3
    assert penalty("mma") == pytest.approx(expected, rel=1e-9)


# W W^T - I, as n > d, by hand.
T = [
    [sum(float(W[i, k] * W[j, k]) for k in range(3)) - (i == j) for j in range(2)] for i in range(2)
]


def test_orthogonality() -> None:
    squares = sum(x * x for row in T for x in row)
    assert penalty("so", scale=1) == pytest.approx(squares, rel=1e-9)
    gram = W.T @ W - torch.eye(3)
    both = squares + float(gram.square().sum())
    assert penalty("dso", scale=1) == pytest.approx(both, rel=1e-9)
    assert penalty("mc", scale=1) == pytest.approx(max(abs(x) for row in T for x in row), rel=1e-9)
    # Of the transposed W, three rows and two neurons, it is W^T W - I.
    assert penalty("so", of=W.T, scale=1) == pytest.approx(squares, rel=1e-9)


def test_srip() -> None:
    torch.manual_seed(0)
    found, root = penalty("srip", scale=1), None
    torch.manual_seed(0)
    root = penalty("srip", scale=1, squared=False)
    torch.manual_seed(0)
    b = [float(x) for x in torch.rand(1, 2, 1, dtype=torch.float64).flatten()]
    v = [sum(T[i][j] * b[j] for j in range(2)) for i in range(2)]
    length = math.hypot(*v)
    w = [sum(T[i][j] * v[j] / length for j in range(2)) for i in range(2)]
    assert found == pytest.approx(w[0] ** 2 + w[1] ** 2, rel=1e-9)
    assert root == pytest.approx(math.hypot(*w), rel=1e-9)
    sigma = float(torch.linalg.matrix_norm(torch.tensor(T), 2))
    assert 0.8 * sigma < root <= sigma * (1 + 1e-6)
    assert penalty("srip", of=torch.eye(2, dtype=torch.float64)) == 0


@pytest.mark.parametrize(
    ("step", "factor"),
    [(1, 1), (20, 1), (21, 1e-3), (50, 1e-3), (51, 1e-4), (70, 1e-4), (71, 1e-6), (120, 1e-6),
     (121, 0), (200, 0)],
)  # fmt: skip
def test_penalties_of_orthogonality_fade(step: int, factor: float) -> None:
    """After epochs 20, 50, 70 and 120 of 200, here steps."""
    method = METHODS["so"]().scaled_to(200)
    assert method.weight_at(step) == pytest.approx(1e-2 * factor)
    assert METHODS["so"](fades=False).scaled_to(200).weight_at(step) == 1e-2
    assert METHODS["so"]().weight_at(step) == 1e-2, "in a program there is no budget"
    stack = W.unsqueeze(0)
    assert (method.penalty(HIDDEN, stack, stack, step=step) is None) is (factor == 0)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (4, 4), (2, 3), (7,), (3, 3, 3)])
@pytest.mark.parametrize(("c", "n", "stride"), [(4, 4, 1), (4, 4, 2), (4, 4, 3), (3, 5, 1)])
def test_ocnn_is_0_on_a_delta_orthogonal_kernel(
    kernel: tuple[int, ...], c: int, n: int, stride: int
) -> None:
    """n > c with a stride is left out: of one tap such a convolution is not orthogonal."""
    strides = (stride,) * len(kernel)
    layer = Layer("a", "a.weight", math.prod(kernel) * c, n, kernel=kernel, stride=strides)
    W = DeltaOrthogonal(gain=1.0).initial_weight(
        layer, torch.zeros(layer.d, n, dtype=torch.float64), torch.Generator().manual_seed(0)
    )
    K = layer.weight(W.unsqueeze(0))
    assert float(convolution_distance(K, strides)) == pytest.approx(0, abs=1e-6)
    assert float(convolution_distance(2 * K, strides)) > 1


def ocnn(layer: nn.Module) -> float:
    opt = OPT(nn.Sequential(layer.double()), "ocnn", scale=1, first=True, classifier=True)
    return float(opt.penalty().detach())


@pytest.mark.parametrize(
    ("stride", "dilation", "groups", "delta"),
    [(1, 1, 1, 2), (2, 1, 1, 0), (1, 1, 2, 2), (2, 1, 2, 0), (2, 2, 1, 2), (3, 2, 1, 0)],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_ocnn_measures_the_convolution(
    stride: int, dilation: int, groups: int, delta: int, transposed: bool
) -> None:
    """The operator's own matrix A on an image with room around it: ||A A^T - I||_F^2 a position."""
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    one = nn.ConvTranspose2d(6, 4, 3, **options) if transposed else nn.Conv2d(4, 6, 3, **options)
    side = 6  # outputs; circular, so that all positions are alike
    inputs = torch.eye(4 * (side * stride) ** 2, dtype=torch.float64)
    images = inputs.reshape(-1, 4, side * stride, side * stride)
    more = 2 * dilation
    images = nn.functional.pad(images, (0, more, 0, more), mode="circular")
    A = conv2d(images, one.double().weight.detach(), **options)[:, :, :side, :side].flatten(1).T
    a_position = (A @ A.T - torch.eye(len(A))).square().sum() / side**2
    assert ocnn(one) == pytest.approx(float(a_position) - delta, rel=1e-9)


def test_ocnn_is_0_for_orthogonal_groups_and_transposes_alone() -> None:
    depthwise = nn.Conv2d(6, 6, 3, groups=6)
    groups = nn.Conv2d(8, 8, 1, groups=2)
    transposed = nn.ConvTranspose2d(4, 3, 2, stride=2)
    with torch.no_grad():
        depthwise.weight.zero_()[:, :, 1, 1] = 1
        groups.weight.copy_(torch.eye(4).repeat(2, 1).view(8, 4, 1, 1))
        nn.init.orthogonal_(transposed.weight)
    for layer in (depthwise, groups, transposed):
        assert ocnn(layer) == pytest.approx(0, abs=1e-9)
    apart = nn.Conv2d(4, 1, 3, stride=2, dilation=2)
    with torch.no_grad():  # one output and the next see the same pixel
        apart.weight.zero_()[0, 0, 0, :2] = 0.5**0.5
    assert ocnn(apart) == pytest.approx(0.5, rel=1e-6)


def test_ocnn_of_a_linear_layer() -> None:
    squares = sum(x * x for row in T for x in row)
    assert penalty("ocnn", scale=1) == pytest.approx(squares, rel=1e-9)


def test_who_is_penalised() -> None:
    def covered(name: str, **options) -> list[str]:
        stacks = OPT(small_cnn(), name, **options).stacks
        return sorted(layer.name for stack in stacks for layer in stack.layers)

    every = covered("so")
    assert "classifier" in every
    assert covered("so", classifier=False) == covered("mma", classifier=False) == every[1:]
    assert covered("ocnn") == [name for name in every if name not in ("classifier", "features.0")]
    assert "features.0" in covered("ocnn", first=True)


PENALTIES: list[tuple[str, dict[str, Any]]] = [
    *[("mhe", {"power": p, "angular": a, "half": h})
      for p in (0, 1, 2) for a in (False, True) for h in (False, True)],
    ("comhe", {"dimensions": 5, "projections": 2}), ("mma", {}), ("so", {}), ("dso", {}),
    ("mc", {}), ("srip", {}), ("srip", {"squared": False}), ("ocnn", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), PENALTIES)
def test_gradients(name: str, options: dict[str, Any]) -> None:
    method = METHODS[name](**options)
    layer = Layer("a", "a.weight", 8, 3, kernel=(2, 2), stride=(1, 1))

    def of(W: Tensor) -> Tensor:
        torch.manual_seed(0)
        return method.penalty(layer, W, W, step=1)

    generator = torch.Generator().manual_seed(0)
    W = torch.randn(2, 8, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(of, W)


@pytest.mark.parametrize(("name", "options"), PENALTIES)
def test_a_stack_is_the_sum_of_its_layers(name: str, options: dict[str, Any]) -> None:
    method = METHODS[name](**options)
    layer = Layer("a", "a.weight", 8, 3, kernel=(2, 2), stride=(1, 1))
    W = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if name in ("srip", "comhe"):  # what they draw differs
        W[1] = W[0]
        W = torch.stack([W[0], W[0].clone()])
        one = float(method.penalty(layer, W[:1], W[:1], step=1))
        assert float(method.penalty(layer, W, W, step=1)) == pytest.approx(2 * one, rel=0.5)
        return
    parts = [float(method.penalty(layer, w[None], w[None], step=1)) for w in W]
    assert float(method.penalty(layer, W, W, step=1)) == pytest.approx(sum(parts), rel=1e-9)
