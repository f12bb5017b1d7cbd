"""The methods that move V itself: steps as published, and what each keeps."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from opt_runner import OPT, merge
from opt_runner.layers import Layer
from opt_runner.methods import METHODS, Method
from opt_runner.methods.kernels.cayley_transform import (
    cayley_retraction,
    cayley_transform,
    msign,
    qf,
)
from tests.small import small_cnn, train

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "pion": ("pion", {}),
    "pion in": ("pion", {"side": "in"}),
    "pion out": ("pion", {"side": "out"}),
    "pion alternate": ("pion", {"side": "alternate", "second_moment": 0.999}),
    "iso": ("iso", {}),
    "iso polar": ("iso", {"retraction": "polar"}),
    "iso cayley": ("iso", {"retraction": "cayley", "side": "in"}),
    "spel": ("spel", {}),
    "spel ones": ("spel", {"spectrum": "ones"}),
    "manifold_muon": ("manifold_muon", {"ascent": 5}),
    "manifold_muon ones": ("manifold_muon", {"ascent": 5, "spectrum": "ones"}),
    "oblique": ("oblique", {}),
    "hyperball": ("hyperball", {}),
    "sso": ("sso", {}),
    "sso without bisection": ("sso", {"bisections": 0}),
}
SIZES = [(2, 1), (2, 5), (8, 3), (8, 12), (64, 10)]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class Owned:
    """One layer of a method with its optimizer, without a network: W (d, n) in float64."""

    def __init__(self, method: Method, W: Tensor, lr: float, momentum: float = 0.9) -> None:
        self.method, self.W = method, W
        layer = Layer("fc", "fc.weight", *W.shape)
        generator = torch.Generator().manual_seed(0)
        self.fixed = {k: t.to(W).unsqueeze(0) for k, t in method.draw(layer, W, generator).items()}
        fixed = {name: tensor[0] for name, tensor in self.fixed.items()}
        tensors = method.init(layer, W, generator, **fixed)
        self.trained = {k: nn.Parameter(t.to(W).unsqueeze(0).clone()) for k, t in tensors.items()}
        groups = [
            {"params": [parameter], **method.optimizer_options(name, 0.1, 0.0), "lr": lr}
            for name, parameter in self.trained.items()
        ]
        self.optimizer = method.optimizer_class(groups, lr=lr, momentum=momentum)

    @property
    def V(self) -> Tensor:
        return self.method.weight(self.W[None], **self.trained, **self.fixed)[0]

    def step(self, G: Tensor) -> Tensor:
        """Move with dL/dV = G (d, n)."""
        self.optimizer.zero_grad()
        (self.V * G).sum().backward()
        self.optimizer.step()
        return self.V.detach().clone()


def built(form: str, W: Tensor, lr: float, momentum: float = 0.9) -> Owned:
    name, options = FORMS[form]
    return Owned(METHODS[name](**options), W, lr, momentum)


def name_of(form: str) -> str:
    return FORMS[form][0]


def polar(X: Tensor) -> Tensor:
    A, _, Bt = torch.linalg.svd(X, full_matrices=False)
    return A @ Bt


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("d", "n"), SIZES)
def test_keeps_what_it_says_over_200_random_steps(form: str, d: int, n: int) -> None:
    W = gaussian(d, n)
    owned = built(form, W, lr=0.05)
    start = owned.V.detach().clone()
    steps = 200 if d < 64 and name_of(form) != "manifold_muon" else 20
    for seed in range(1, steps + 1):
        V = owned.step(gaussian(d, n, seed=seed))
    if d > 2 or n > 1:
        assert (V - start).abs().max() > 1e-3
    name, options = FORMS[form]
    if name in ("pion", "iso"):
        torch.testing.assert_close(torch.linalg.svdvals(V), torch.linalg.svdvals(W))
    if options.get("side") == "in" or (
        name in ("spel", "manifold_muon") and not options.get("spectrum")
    ):
        torch.testing.assert_close(V.T @ V, W.T @ W)
    if options.get("spectrum") == "ones":
        torch.testing.assert_close(torch.linalg.svdvals(V), torch.ones(min(d, n)).double())
    if name == "oblique":
        torch.testing.assert_close(V.norm(dim=0), W.norm(dim=0))
    if name == "hyperball":
        torch.testing.assert_close(V.norm(), W.norm())
    if name == "sso":
        torch.testing.assert_close(torch.linalg.matrix_norm(V, 2), torch.linalg.matrix_norm(W, 2))
    trained = {k: t.detach() for k, t in owned.trained.items()}
    measured = owned.method.measure(W[None], V[None], **trained, **owned.fixed)
    assert all(float(value.max()) < 1e-10 for value in measured.values())
    assert measured


def series(A: Tensor) -> Tensor:
    return torch.eye(len(A)).double() + A + A @ A / 2


@pytest.mark.parametrize("side", ["in", "out", "both"])
@pytest.mark.parametrize("second_moment", [None, 0.999])
def test_two_steps_of_pion_as_published(side: str, second_moment: float | None) -> None:
    """In the layout of the source: W (out, in)."""
    W = gaussian(5, 7)
    options = {"side": side, "exact": False, "second_moment": second_moment}
    owned = Owned(METHODS["pion"](**options), W.T, lr=0.1)
    M_in, M_out, v_in, v_out = (torch.zeros(s, s).double() for s in (7, 5, 7, 5))
    for seed in (1, 2):
        G = gaussian(5, 7, seed=seed)
        X_in, X_out = W.T @ G - (W.T @ G).T, G @ W.T - (G @ W.T).T
        M_in, M_out = 0.9 * M_in + 0.1 * X_in, 0.9 * M_out + 0.1 * X_out
        v_in, v_out = 0.999 * v_in + 1e-3 * X_in**2, 0.999 * v_out + 1e-3 * X_out**2
        A_in, A_out = -M_in, -M_out
        if second_moment:
            A_in, A_out = A_in / (v_in.sqrt() + 1e-8), A_out / (v_out.sqrt() + 1e-8)
        A_in, A_out = A_in * (side != "out"), A_out * (side != "in")
        a = 0.1 * 0.2 * math.sqrt(5 * 7) / ((W @ A_in + A_out @ W).norm() + 1e-12)
        W = series(a * A_out) @ (W @ series(a * A_in))
        V = owned.step(G.T)
    torch.testing.assert_close(V.T, W)


def test_the_series_of_pion_moves_the_spectrum() -> None:
    """The drift of 200 random steps: small at lr 0.02, a percent at 0.1; none with `exact`."""
    changes = []
    for lr, exact in ((0.02, False), (0.1, False), (0.1, True)):
        owned = Owned(METHODS["pion"](exact=exact), gaussian(24, 16) / 5, lr)
        for seed in range(200):
            V = owned.step(gaussian(24, 16, seed=seed))
        measured = owned.method.measure(owned.W[None], V[None], R=V[None], **owned.fixed)
        changes.append(float(measured["spectrum_change"]))
    assert 1e-7 < changes[0] < 1e-3 < changes[1] < 0.1
    assert changes[2] < 1e-12


@pytest.mark.parametrize("retraction", ["qf", "polar", "cayley"])
def test_two_steps_of_iso_as_published(retraction: str) -> None:
    W = gaussian(5, 7)
    owned = Owned(METHODS["iso"](retraction=retraction), W.T, lr=0.01)
    U, S, Vt = torch.linalg.svd(W, full_matrices=False)
    V = Vt.T

    def moved(X: Tensor, M: Tensor) -> Tensor:
        if retraction == "cayley":
            A = X @ M.T - M @ X.T
            eye = torch.eye(len(X)).double()
            return torch.linalg.solve(eye - 0.005 * A, (eye + 0.005 * A) @ X)
        if retraction == "polar":
            return polar(X - 0.01 * M)
        Q, R = torch.linalg.qr(X - 0.01 * M)
        return Q * R.diagonal().sign()

    M_U, M_V = torch.zeros_like(U), torch.zeros_like(V)
    for seed in (1, 2):
        G = gaussian(5, 7, seed=seed)
        M_U, M_V = 0.9 * M_U + G @ V * S, 0.9 * M_V + G.T @ U * S
        U, V = moved(U, M_U), moved(V, M_V)
        found = owned.step(G.T)
    torch.testing.assert_close(found.T, U * S @ V.T)


def test_two_steps_of_spel_as_published() -> None:
    W = polar(gaussian(7, 5))
    owned = Owned(METHODS["spel"](spectrum="ones"), W, lr=0.05)
    M = torch.zeros_like(W)
    for seed in (1, 2):
        G = gaussian(7, 5, seed=seed)
        M = 0.95 * M + 0.05 * G
        W = polar((1 - 0.05 * 0.1) * W - 0.05 * polar(M))
        V = owned.step(G)
    torch.testing.assert_close(V, W)


def test_a_step_of_manifold_muon_as_published() -> None:
    W, G = polar(gaussian(7, 3)), gaussian(7, 3, seed=1)
    V = Owned(METHODS["manifold_muon"](spectrum="ones"), W, lr=0.1).step(G)
    dual = -0.25 * (W.T @ G + G.T @ W)
    first = polar(G + 2 * W @ dual)
    for step in range(100):
        A = polar(G + 2 * W @ dual)
        H = W.T @ A + A.T @ W
        if H.norm() / H.numel() ** 0.5 < 1e-6:
            break
        dual = dual - 0.01 * (1 - step / 100) * H
    A = polar(G + 2 * W @ dual)
    torch.testing.assert_close(V, polar(W - 0.1 * A))
    off_tangent = [float((W.T @ X + X.T @ W).norm()) for X in (A, first)]
    assert off_tangent[0] < 0.8 * off_tangent[1], "the ascent leads towards the tangent space"


def test_two_steps_of_oblique_as_published() -> None:
    """In the layout of the source: rows of length 1."""
    W = nn.functional.normalize(gaussian(4, 6), dim=1)
    owned = Owned(METHODS["oblique"](), W.T, lr=0.1)
    b = torch.zeros_like(W)
    for seed in (1, 2):
        G = gaussian(4, 6, seed=seed)
        b = 0.9 * b + G
        W = nn.functional.normalize(W - 0.1 * (b - W * (W * b).sum(1, keepdim=True)), dim=1)
        V = owned.step(G.T)
    torch.testing.assert_close(V.T, W)


def test_two_steps_of_hyperball_as_published() -> None:
    W = gaussian(4, 6)
    owned = Owned(METHODS["hyperball"](), W, lr=0.1)
    R, u = W.norm(), torch.zeros_like(W)
    for seed in (1, 2):
        G = gaussian(4, 6, seed=seed)
        u = 0.9 * u + G
        W = W - 0.1 * R * u / u.norm()
        W = R * W / W.norm()
        V = owned.step(G)
    torch.testing.assert_close(V, W)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 1)])
def test_two_steps_of_sso_as_published(shape: tuple[int, int]) -> None:
    W = gaussian(*shape)
    owned = Owned(METHODS["sso"](bisections=60), W, lr=0.1)
    R, M = torch.linalg.matrix_norm(W, 2), torch.zeros_like(W)
    for seed in (1, 2):
        G = gaussian(*shape, seed=seed)
        M = 0.9 * M + 0.1 * G
        A, _, Bt = torch.linalg.svd(W, full_matrices=False)
        top = torch.outer(A[:, 0], Bt[0])

        def along(c: float, M: Tensor = M, top: Tensor = top) -> float:
            return float((polar(M / M.norm() + c * top) * top).sum())

        root = brentq(along, -10.0, 10.0, xtol=1e-14)
        W = W - 0.1 * R * polar(M / M.norm() + root * top)
        W = W * R / torch.linalg.matrix_norm(W, 2)
        V = owned.step(G)
    torch.testing.assert_close(V, W, rtol=0, atol=1e-6)


def path(move: Callable[[Owned, Tensor, float], None], owned: Owned, h: float) -> Tensor:
    """V (d, n) after time 1 in steps of h down the distance to a fixed target, no momentum."""
    target = gaussian(*owned.W.shape, seed=9)
    for _ in range(round(1 / h)):
        move(owned, owned.V.detach() - target, h)
    return owned.V.detach()


def plain(owned: Owned, G: Tensor, h: float) -> None:
    owned.step(G)


def pion(owned: Owned, G: Tensor, h: float) -> None:
    """Pion divides by the length of its step: lr that makes it h / 2 of A_in."""
    V = owned.V.detach()
    A = V @ G.T - G @ V.T
    owned.optimizer.param_groups[0]["lr"] = h / 2 * float((A @ V).norm()) / (0.2 * V.numel() ** 0.5)
    owned.step(G)


def test_one_sided_methods_follow_one_flow() -> None:
    """dV/dt = -1/2 (G V^T - V G^T) V. frame, pion and iso with Cayley transforms are one path.
    ogd's fixed points and pion's series leave it by O(h^2)."""
    W = gaussian(9, 4) / 3
    errors: dict[str, list[float]] = {"ogd": [], "series": []}
    for h in (0.1, 0.05, 0.025):
        frame = path(plain, Owned(METHODS["frame"](), W, h, 0.0), h)
        exact = path(pion, Owned(METHODS["pion"](side="in"), W, h, 0.0), h)
        iso = path(plain, Owned(METHODS["iso"](side="in", retraction="cayley"), W, h / 2, 0.0), h)
        for other in (exact, iso):
            torch.testing.assert_close(other, frame, rtol=0, atol=1e-10)
        ogd = path(plain, Owned(METHODS["ogd"](form="reference"), W, h, 0.0), h)
        series = path(pion, Owned(METHODS["pion"](side="in", exact=False), W, h, 0.0), h)
        errors["ogd"].append(float((ogd - frame).norm()))
        errors["series"].append(float((series - frame).norm()))
    for found in errors.values():
        orders = [math.log2(a / b) for a, b in itertools.pairwise(found)]
        assert min(orders) > 1.7, found


@pytest.mark.parametrize(("d", "r"), [(9, 2), (9, 4), (9, 9), (40, 3)])
def test_retractions_against_dense_matrices(d: int, r: int) -> None:
    X, N = polar(gaussian(d, r)), gaussian(d, r, seed=1)
    K, eye = N @ X.T - X @ N.T, torch.eye(d).double()
    dense = torch.linalg.solve(eye - K / 2, (eye + K / 2) @ X)
    torch.testing.assert_close(cayley_retraction(X[None], N[None])[0], dense)
    torch.testing.assert_close(cayley_transform(K[None], X[None])[0], dense)
    torch.testing.assert_close(msign(X[None] + N[None])[0], polar(X + N))
    Q = qf((X + N)[None])[0]
    assert ((Q.T @ (X + N)).diagonal() > 0).all()
    torch.testing.assert_close(Q @ (Q.T @ (X + N)), X + N)


def test_the_sign_of_a_matrix_of_low_rank_has_that_rank() -> None:
    X = gaussian(1, 8, 2) @ gaussian(1, 2, 5, seed=1)
    torch.testing.assert_close(
        torch.linalg.svdvals(msign(X)[0]), torch.tensor([1.0, 1, 0, 0, 0]).double()
    )
    assert not msign(torch.zeros(1, 4, 3)).any()


@pytest.mark.parametrize("form", FORMS)
def test_trains_a_network_and_merges(form: str) -> None:
    name, options = FORMS[form]
    opt = OPT(small_cnn(), name, **options)
    losses = train(opt, steps=12)
    assert losses[-1] < losses[0]
    x = torch.randn(2, 3, 8, 8)
    opt.eval()
    torch.testing.assert_close(merge(opt).eval()(x), opt(x))
