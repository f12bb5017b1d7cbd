"""frame: what it computes without a d x d matrix is what dense matrices give."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from opt_runner import OPT, hyperspherical_energy
from opt_runner.methods import Frame
from opt_runner.methods.kernels.frame_sgd import FrameSGD, cayley_of_frame
from opt_runner.methods.kernels.retraction_sgd import RetractionSGD
from tests.small import small_cnn, train


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def neurons(d: int, n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (2 / d) ** 0.5 * gaussian(d, n, seed=seed, dtype=dtype)


def descend(
    W: Tensor, steps: int, kind: type = FrameSGD, lr: float = 0.02, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """V (d, n) before and after a step towards a fixed target, `steps` of them made before."""
    V = nn.Parameter(W.clone().unsqueeze(0))
    group = {"params": [V], "retract": True, "form": "thin"}
    optimizer = kind([group], lr=lr, momentum=0.9)
    target = gaussian(*W.shape, seed=9, dtype=W.dtype)
    before = W
    for _ in range(steps):
        before = V.detach()[0].clone()
        optimizer.zero_grad()
        (scale / 2 * (V - target).square().sum()).backward()
        optimizer.step()
    return before, V.detach()[0]


@settings(max_examples=20, deadline=None)
@given(
    st.integers(2, 40), st.integers(1, 40), st.integers(0, 2**31),
    st.sampled_from([1e-6, 1e-2, 1.0, 1e2]),
)  # fmt: skip
def test_is_ogd_with_the_exact_cayley_transform(d: int, n: int, seed: int, scale: float) -> None:
    """Momentum of n columns carries all of the d x d one, for gradients of any length."""
    W = neurons(d, min(n, d), seed)
    V = nn.Parameter(W.clone().unsqueeze(0))
    optimizer = FrameSGD([{"params": [V], "retract": True}], lr=0.02, momentum=0.9)
    expected, eye = W, torch.eye(d, dtype=W.dtype)
    K = torch.zeros_like(eye)
    for step in range(6):
        G = scale * gaussian(*W.shape, seed=seed + step)
        K = 0.9 * K - (G @ expected.T - expected @ G.T) / 2
        h = min(0.02, 1 / (float(K.norm()) + 1e-8)) / 2
        expected = torch.linalg.solve(eye - h * K, eye + h * K) @ expected
        V.grad = G.unsqueeze(0)
        optimizer.step()
    torch.testing.assert_close(V[0].detach(), expected, rtol=0, atol=1e-9)
    N = optimizer.state[V]["momentum_buffer"][0]
    torch.testing.assert_close(N @ V[0].T - V[0] @ N.T, K, rtol=0, atol=1e-9 * max(1, scale))


@settings(max_examples=20, deadline=None)
@given(
    st.integers(2, 40), st.integers(1, 40), st.integers(0, 2**31),
    st.sampled_from([1e-6, 1.0, 1e4]),
)  # fmt: skip
def test_v_and_its_momentum_turn_by_one_rotation(d: int, n: int, seed: int, length: float) -> None:
    n = min(n, d)
    V, N = neurons(d, n, seed), length * gaussian(d, n, seed=seed + 1)
    N = N - V @ torch.linalg.pinv(V) @ N  # so that V^T N is skew
    C, T, D = V.T @ V, V.T @ N, N.T @ N
    A, B, Y = (x[0] for x in cayley_of_frame(C[None], T[None], D[None], 0.3))
    K = N @ V.T - V @ N.T
    h = min(0.3, 1 / (float(K.norm()) + 1e-8)) / 2
    eye = torch.eye(d, dtype=V.dtype)
    Q = torch.linalg.solve(eye - h * K, eye + h * K)
    turned, carried = N @ A + V @ B, N @ Y
    torch.testing.assert_close(turned, Q @ V, rtol=0, atol=1e-10)
    torch.testing.assert_close(turned.T @ turned, C, rtol=0, atol=1e-10)
    same = carried @ turned.T - turned @ carried.T
    torch.testing.assert_close(same / length, K / length, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize(("d", "n"), [(128, 16), (64, 60), (40, 40), (12, 1), (576, 64)])
def test_does_not_drift(d: int, n: int, scale: float) -> None:
    W = neurons(d, n, dtype=torch.float32)
    _, V = descend(W, 300 if d < 500 else 50, scale=scale)
    assert (V.T @ V - W.T @ W).abs().max() < 1e-5
    torch.testing.assert_close(
        hyperspherical_energy(V), hyperspherical_energy(W), rtol=1e-5, atol=1e-5
    )


def test_turns_back_what_has_drifted() -> None:
    W = neurons(64, 12)
    V = nn.Parameter(W.clone().unsqueeze(0))
    optimizer = FrameSGD([{"params": [V], "retract": True}], lr=0.02, momentum=0.9)

    def step() -> Tensor:
        V.grad = 0.01 * gaussian(1, 64, 12)
        optimizer.step()
        return (V[0].T @ V[0] - W.T @ W).detach().abs().max()

    step()
    with torch.no_grad():
        V *= 1 + 1e-3
    errors = [float(step()) for _ in range(7)]
    assert min(errors[:-1]) > 1e-3
    assert errors[-1] < 1e-5


def test_dependent_and_missing_neurons() -> None:
    W = neurons(32, 8, dtype=torch.float32)
    W[:, 5] = W[:, 2]
    W[:, 7] = 0
    _, V = descend(W, 300)
    assert (V.T @ V - W.T @ W).abs().max() < 1e-5
    torch.testing.assert_close(V[:, 5], V[:, 2], rtol=0, atol=1e-5)
    assert not V[:, 7].any()


def test_no_gradient_moves_nothing() -> None:
    W = neurons(16, 4, dtype=torch.float32)
    V = nn.Parameter(W.clone().unsqueeze(0))
    optimizer = FrameSGD([{"params": [V], "retract": True}], lr=0.02, momentum=0.9)
    V.grad = torch.zeros_like(V)
    optimizer.step()
    torch.testing.assert_close(V[0].detach(), W, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("d", "n"), [(128, 16), (64, 60)])
def test_follows_ogd(d: int, n: int) -> None:
    """Which has the same K, and of its Cayley transform two fixed-point steps."""
    W = neurons(d, n)
    _, ogd = descend(W, 50, RetractionSGD)
    _, frame = descend(W, 50)
    moved = (ogd - W).abs().max()
    assert moved > 0.1
    assert (frame - ogd).abs().max() < 1e-2 * moved


def test_reaches_the_nearest_rotation() -> None:
    """min ||Q W - target|| is Procrustes' problem, which singular values solve."""
    W, target = neurons(20, 5), gaussian(20, 5, seed=9)
    _, V = descend(W, 2000, lr=0.05)
    X, _, Yt = torch.linalg.svd(target @ root(W), full_matrices=False)
    expected = X @ Yt @ root(W)
    torch.testing.assert_close(
        (V - target).norm(), (expected - target).norm(), rtol=1e-3, atol=1e-3
    )


def root(W: Tensor) -> Tensor:
    _, s, Yt = torch.linalg.svd(W, full_matrices=False)
    return Yt.T * s @ Yt


def test_a_stack_is_its_matrices_one_by_one() -> None:
    W = torch.stack([neurons(200, 90, seed) for seed in range(3)]).float()
    G = gaussian(3, 200, 90, seed=5, dtype=torch.float32)

    def stepped(W: Tensor, G: Tensor) -> Tensor:
        V = nn.Parameter(W.clone())
        optimizer = FrameSGD([{"params": [V], "retract": True}], lr=0.02, momentum=0.9)
        for _ in range(3):
            V.grad = G.clone()
            optimizer.step()
        return V.detach()

    together = stepped(W, G)
    for i in range(3):
        one = stepped(W[i : i + 1], G[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], one, rtol=0, atol=1e-5)


def test_keeps_nothing_of_size_d_by_d() -> None:
    opt = OPT(small_cnn(), "frame")
    optimizer = opt.optimizer(lr=0.05)
    x = torch.randn(4, 3, 8, 8)
    opt(x).sum().backward()
    optimizer.step()
    for stack in opt.stacks:
        d, n = stack.layers[0].d, stack.layers[0].n
        R = stack.trained["R"]
        if n < d:
            assert R.shape[1:] == (d, n)
            kept = {name: of for name, of in optimizer.state[R].items() if name != "steps"}
            sizes = {name: tuple(of.shape[1:]) for name, of in kept.items()}
            assert sizes == {"momentum_buffer": (d, n), "gram": (n, n), "inverse": (n, n)}


@pytest.mark.parametrize("start", ["identity", "orthogonal"])
@pytest.mark.parametrize("train_w", [False, True])
def test_trains_a_network_and_keeps_its_angles(start: str, train_w: bool) -> None:
    opt = OPT(small_cnn(), "frame", start=start, train_w=train_w)
    before = {name: V.T @ V for name, V in opt.neurons().items()}
    losses = train(opt, steps=30)
    assert losses[-1] < losses[0]
    assert opt.orthogonality_error() < 1e-5
    for name, V in opt.neurons().items():
        same = torch.allclose(V.T @ V, before[name], atol=1e-5)
        assert same is not train_w


def test_is_a_rotation_of_w_from_the_start() -> None:
    opt = OPT(small_cnn(), Frame())
    for stack in opt.stacks:
        torch.testing.assert_close(stack.V(), stack.W())
