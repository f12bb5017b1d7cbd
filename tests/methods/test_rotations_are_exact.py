"""Every exact variant: Q^T Q = I, the energy of Q(R) W is that of W, gradients, batches."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks import naive
from opt_runner import hyperspherical_energy
from opt_runner.geometry import orthogonality_error
from opt_runner.layers import Layer
from opt_runner.methods import METHODS, Method
from opt_runner.methods.kernels import on_gpu
from tests.gpu import Gpu

MAPS = ["gs", "hr", "ls", "cayley"]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# The definitions, differentiated by autograd in float64.
DEFINITIONS = [
    ("gs", naive.gram_schmidt_loop),
    ("gs", naive.gram_schmidt_qr),
    ("hr", naive.householder_loop),
    ("ls", naive.lowdin_svd),
    ("cayley", naive.cayley_inverse),
]


@pytest.mark.parametrize(("name", "definition"), DEFINITIONS)
@pytest.mark.parametrize(("d", "n"), [(1, 1), (2, 3), (5, 2), (27, 12), (64, 10)])
def test_is_its_definition_with_its_gradient(
    name: str, definition: Callable[[Tensor], Tensor], d: int, n: int
) -> None:
    R, W, G = draw(d, d), draw(d, n, seed=1), draw(d, n, seed=2)
    expected_R = R.clone().requires_grad_()
    expected = definition(expected_R) @ W
    if expected.requires_grad:  # at d = 1 the product of no reflections does not depend on R
        expected.backward(G)

    stack = R.clone().unsqueeze(0).requires_grad_()
    V = METHODS[name]().rotate(stack, W.unsqueeze(0))
    V.backward(G.unsqueeze(0))

    torch.testing.assert_close(V[0], expected, rtol=1e-9, atol=1e-9)
    gradient = torch.zeros_like(R) if expected_R.grad is None else expected_R.grad
    scale = gradient.abs().max().clamp(min=1)
    torch.testing.assert_close(stack.grad[0] / scale, gradient / scale, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("d", [1, 2, 3, 27, 100, 576])
def test_is_orthogonal_in_float32(name: str, d: int) -> None:
    method = METHODS[name]()
    layer = Layer("fc", "fc.weight", d, 1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    R = torch.stack([method.init(layer, torch.empty(d, 1), g)["R"] for g in generators])
    Q = method.rotate(R, torch.eye(d).expand(2, d, d).contiguous())
    assert orthogonality_error(Q).max() < 5e-6


def test_determinant_of_householder_and_cayley() -> None:
    for d in range(1, 8):
        eye = torch.eye(d, dtype=torch.float64).unsqueeze(0)
        for seed in range(5):
            R = draw(1, d, d, seed=seed)
            Q = METHODS["hr"]().rotate(R, eye)
            assert torch.linalg.det(Q).item() == pytest.approx((-1) ** (d - 1))
            Q = METHODS["cayley"]().rotate(R, eye)
            assert torch.linalg.det(Q).item() == pytest.approx(1)


@pytest.mark.parametrize("name", MAPS)
def test_gradient_is_finite_at_the_identity(name: str) -> None:
    R = torch.eye(16).unsqueeze(0).requires_grad_()
    V = METHODS[name]().rotate(R, draw(1, 16, 4, dtype=torch.float32))
    V.backward(draw(1, 16, 4, seed=1, dtype=torch.float32))
    assert torch.isfinite(V).all()
    assert torch.isfinite(R.grad).all()


def test_lowdin_with_repeated_singular_values() -> None:
    """At R = c * orthogonal all singular values are equal: autograd through the SVD is NaN."""
    Q, _ = torch.linalg.qr(draw(12, 12))
    R = (3 * Q).unsqueeze(0).requires_grad_()
    W = draw(1, 12, 5, seed=1)
    torch.autograd.gradcheck(lambda R: METHODS["ls"]().rotate(R, W), R)


@pytest.mark.parametrize("name", MAPS)
@settings(max_examples=25, deadline=None)
@given(st.integers(2, 24), st.integers(2, 12), st.integers(0, 2**31))
def test_keeps_the_energy(name: str, d: int, n: int, seed: int) -> None:
    R, W = draw(1, d, d, seed=seed), draw(1, d, n, seed=seed + 1)
    V = METHODS[name]().rotate(R, W)
    for s in (0.0, 1.0, 2.0):
        torch.testing.assert_close(
            hyperspherical_energy(V, s), hyperspherical_energy(W, s), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("d", [40, 200])
def test_a_batch_equals_its_matrices_one_by_one(name: str, d: int, two_threads: None) -> None:
    """d = 200 with several threads is where batched LU on the CPU returns garbage."""
    method = METHODS[name]()
    R = draw(4, d, d, dtype=torch.float32).requires_grad_()
    W, G = (draw(4, d, 16, seed=seed, dtype=torch.float32) for seed in (1, 2))
    V = method.rotate(R, W)
    V.backward(G)
    for i in range(4):
        one = R[i : i + 1].detach().requires_grad_()
        v = method.rotate(one, W[i : i + 1])
        v.backward(G[i : i + 1])
        torch.testing.assert_close(V[i], v[0], rtol=0, atol=1e-3)
        scale = one.grad.abs().max()
        torch.testing.assert_close(R.grad[i] / scale, one.grad[0] / scale, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(("d", "n"), [(1, 1), (2, 3), (27, 40), (64, 8)])
def test_a_gpu_equals_the_cpu(name: str, d: int, n: int, gpu: Gpu) -> None:
    method: Method = METHODS[name]()
    R, W, G = draw(3, d, d), draw(3, d, n, seed=1), draw(3, d, n, seed=2)
    results = []
    for device in (torch.device("cpu"), gpu.device):
        r = R.clone().to(device).requires_grad_()
        V = method.rotate(r, W.to(device))
        V.backward(G.to(device))
        results.append((V.cpu(), r.grad.cpu()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-8, atol=1e-8)


def householder_by_qr(R: Tensor) -> Tensor:
    Q, U = torch.linalg.qr(R)
    Q = Q * U.diagonal().sign()
    turn = torch.ones(len(R), dtype=R.dtype)
    turn[-1] = torch.linalg.det(Q.detach()).sign() * (-1) ** (len(R) - 1)
    return Q * turn


# From LAPACK's decompositions, which autograd differentiates quickly in float64.
DECOMPOSED = dict(DEFINITIONS) | {"gs": naive.gram_schmidt_qr, "hr": householder_by_qr}


def errors_in_float32(
    name: str, R: Tensor, device: str | torch.device = "cpu", n: int = 64
) -> tuple[float, float]:
    """Of V = Q(R) W, the largest entry, and of dL/dR, relative: against autograd in float64."""
    W, G = draw(len(R), n, seed=1), draw(len(R), n, seed=2)
    exact = R.clone().requires_grad_()
    expected = DECOMPOSED[name](exact) @ W
    if expected.requires_grad:
        expected.backward(G)
    gradient = torch.zeros_like(R) if exact.grad is None else exact.grad
    stack = R.float().unsqueeze(0).to(device).requires_grad_()
    V = METHODS[name]().rotate(stack, W.float().unsqueeze(0).to(device))
    V.backward(G.float().unsqueeze(0).to(device))
    error = (stack.grad[0].cpu() - gradient).norm() / gradient.norm().clamp(min=1e-30)
    return float((V[0].cpu() - expected).detach().abs().max()), float(error)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("d", [1, 2, 64, 512, 576, 1152])
def test_float32_is_near_float64(name: str, d: int) -> None:
    """Every size is solved differently: with more neurons than rows, in panels, bordered."""
    V_error, gradient_error = errors_in_float32(name, draw(d, d, seed=d))
    assert V_error < 3e-4
    assert gradient_error < 3e-4


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("smallest", [1e-2, 1e-4])
def test_nearly_singular(name: str, smallest: float) -> None:
    """Rounding in R is magnified by its condition, in the exact result as well: 1e-7 / smallest."""
    R = with_condition(1 / smallest)
    V_error, gradient_error = errors_in_float32(name, R)
    assert V_error < 1e-5 / smallest
    assert gradient_error < 1e-5 / smallest
    Q = METHODS[name]().rotate(R.float().unsqueeze(0), torch.eye(40).unsqueeze(0))
    assert orthogonality_error(Q) < 5e-6


def with_condition(condition: float) -> Tensor:
    """A matrix of numbers that float32 has."""
    X, _ = torch.linalg.qr(draw(40, 40))
    Y, _ = torch.linalg.qr(draw(40, 40, seed=5))
    R = X * torch.linspace(1, 1 / condition, 40, dtype=torch.float64) @ Y
    return R.float().double()


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("condition", [1, 1e2, 1e5, 1e7])
def test_on_a_gpu_rounding_is_not_magnified(name: str, condition: float, gpu: Gpu) -> None:
    """The decompositions are in float64 there."""
    R = with_condition(condition)
    V_error, gradient_error = errors_in_float32(name, R, gpu.device)
    assert V_error < 2e-5
    assert gradient_error < 2e-5
    eye = torch.eye(40).unsqueeze(0).to(gpu.device)
    Q = METHODS[name]().rotate(R.float().unsqueeze(0).to(gpu.device), eye).cpu()
    assert orthogonality_error(Q) < 5e-6


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 8), st.floats(0, 7), st.integers(0, 2**31))
def test_polar_factor_by_products(d: int, decades: float, seed: int) -> None:
    """For any singular values: the steps send some of them through tiny ones on the way to 1."""
    X, Y = (torch.linalg.qr(draw(d, d, seed=seed + i))[0] for i in range(2))
    spread = torch.rand(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    R, G = (X * 10 ** (-decades * spread) @ Y).unsqueeze(0), draw(1, d, d, seed=seed + 2)
    expected, saved = METHODS["ls"].apply(R, torch.eye(d, dtype=R.dtype).unsqueeze(0))
    Q, gradient = on_gpu.polar(R), METHODS["ls"].gradient(saved, G)
    torch.testing.assert_close(Q, expected, rtol=0, atol=1e-8)
    dR = on_gpu.polar_gradient(R, Q, G)
    torch.testing.assert_close(dR, gradient, rtol=0, atol=1e-6 * float(gradient.norm()))


@pytest.mark.parametrize("name", ["gs", "hr", "ls"])
def test_a_singular_matrix_on_a_gpu_is_noticed_later(name: str, gpu: Gpu) -> None:
    """Nothing may wait: V is NaN, which the training calls diverged."""
    R = torch.zeros(1, 4, 4).to(gpu.device)
    with gpu.no_waits():
        V = METHODS[name]().rotate(R, torch.eye(4, device=gpu.device).unsqueeze(0))
    assert V.cpu().isnan().all()


@pytest.mark.parametrize("says_so", [True, False])
def test_lowdin_where_single_precision_does_not_converge(
    says_so: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MKL's for some matrices that are well conditioned: float64 takes its place."""
    exact = torch.linalg.svd

    def fails(R: Tensor, *form: bool) -> tuple[Tensor, ...]:
        if R.dtype == torch.float32 and says_so:
            raise torch.linalg.LinAlgError("did not converge")
        X, S, Yt = exact(R, *form)
        if R.dtype == torch.float32:
            X[0], Yt[0] = torch.nan, torch.nan
        return X, S, Yt

    R, W = torch.eye(8) + 0.1 * torch.randn(2, 8, 8), torch.randn(2, 8, 3)
    expected = METHODS["ls"]().rotate(R, W)
    monkeypatch.setattr(torch.linalg, "svd", fails)
    V = METHODS["ls"]().rotate(R, W)
    assert V.dtype == torch.float32
    torch.testing.assert_close(V, expected)
    with pytest.raises(torch.linalg.LinAlgError):
        METHODS["ls"]().rotate(torch.full_like(R, torch.nan), W)
