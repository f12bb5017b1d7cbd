"""The rivals and descendants of OPT: starts, orthogonality, merging, gradients, going on.

Penalties are computed by hand in test_penalties.py, `frame` in test_frame.py.
"""

import copy
import io
import math
from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from opt_runner import OPT, hyperspherical_energy, merge
from opt_runner.errors import UserError
from opt_runner.geometry import orthogonality_error
from opt_runner.layers import Layer
from opt_runner.methods import METHODS, PAPER, Method, Rotation
from opt_runner.methods.maps.blocks import cayley_blocks, divisor_near, neumann_blocks
from opt_runner.methods.neurons import prepared
from opt_runner.networks import MLP
from tests.small import small_cnn, train

RIVALS = [name for name in METHODS if name not in PAPER]
ROTATING = [name for name in METHODS if issubclass(METHODS[name], Rotation)]
# Forms that options make, beside the methods as they are.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("oft", "boft", "hra", "givens", "parametrization")},
    "coft": ("oft", {"constrained": True, "block": 4}),
    "torch matrix_exp": ("parametrization", {"arguments": {"orthogonal_map": "matrix_exp"}}),
    "torch householder": ("parametrization", {"arguments": {"orthogonal_map": "householder"}}),
    "geotorch": ("parametrization", {"constraint": "geotorch.orthogonal", "arguments": {}}),
}


def mlp() -> MLP:
    torch.manual_seed(0)
    return MLP(1, (4, 4), 3, widths=(12, 12, 8), bn_momentum=0.1)


def build(form: str) -> Any:
    if "geotorch" in form:
        pytest.importorskip("geotorch")
    name, options = FORMS[form]
    return METHODS[name](**options)


def scrambled(opt: OPT, spread: float = 0.5) -> OPT:
    """With random numbers in all that the method trains."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for stack in opt.stacks:
            for tensor in stack.trained.values():
                tensor += spread * torch.randn(tensor.shape, generator=generator)
    return opt


@pytest.mark.parametrize("name", [name for name in RIVALS if METHODS[name]().changes_weight])
def test_starts_at_w(name: str) -> None:
    opt = OPT(small_cnn(), name)
    for stack in opt.stacks:
        torch.testing.assert_close(stack.V(), stack.W(), rtol=0, atol=1e-5)


EXPONENTIALS = ("torch matrix_exp", "geotorch")
EPS = torch.finfo(torch.float32).eps
MATRIX_EXP_IS_MENDED = tuple(map(int, version("torch").split(".")[:2])) >= (2, 15)


def rounding(form: str, R: Tensor) -> Tensor:
    """Return the largest |Q^T Q - I| that the map `form` promises in float32, by matrix of R.

    Closed forms stay below 18 eps in 1,600 draws (AVX2 and scalar kernels); twice that is allowed.

    exp(A) = exp(A / 2^s)^(2^s) with the least s for which |A / 2^s|_1 <= 3: each squaring doubles
    the error, so it grows as |A|_1 (8 eps |A|_1 at most in the same draws).

    PyTorch below 2.15 has a wrong coefficient in the polynomial of degree 8, which it takes for one
    matrix of 0.0512 < |A|_1 <= 0.58: A^5 is off by 8.14e-4, A^6 by 3.36e-4, so for a skew A
    |Q^T Q - I| = 2 (8.14e-4 - 3.36e-4) |A|^6. Source: pytorch issue 196592.
    """
    if form not in EXPONENTIALS:
        return torch.full(R.shape[:1], 36 * EPS)
    A = R.tril(-1)
    norm = torch.linalg.matrix_norm(A - A.mT, ord=1)
    bound = 16 * EPS * norm.clamp(min=1)
    if not MATRIX_EXP_IS_MENDED:
        bound += torch.where((norm > 0.0512) & (norm < 0.5801), 9.6e-4 * norm**6, 0)
    return bound


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("d", [2, 8, 64])
def test_q_is_orthogonal_wherever_r_is(form: str, d: int) -> None:
    method = build(form)
    layer = Layer("fc", "fc.weight", d, 1)
    R = method.init(layer, torch.empty(d, 1), None)["R"]
    noise = torch.randn(8, *R.shape, generator=torch.Generator().manual_seed(d))
    # R of torch's Householder map has signs on its diagonal, and nothing above it.
    R = R + (noise.tril(-1) if form == "torch householder" else noise)
    Q = method.rotate(R, torch.eye(d).expand(len(R), d, d).contiguous())
    assert not torch.allclose(Q, torch.eye(d), atol=0.1)
    assert (orthogonality_error(Q) <= rounding(form, R)).all()


@pytest.mark.parametrize("form", FORMS)
def test_kernels_turn_as_neurons(form: str) -> None:
    """Kernels of 3 x 3 on larger images: lengths and angles stay, and merged is unmerged."""
    opt = OPT(small_cnn(), build(form)).eval()
    spread = 0.0 if form == "torch householder" else 0.5
    before = {name: V.T @ V for name, V in scrambled(opt, spread).neurons().items()}
    for name, gram in before.items():
        W = opt.network.get_submodule(name).weight
        W = W.permute(2, 3, 1, 0).flatten(0, 2) if W.ndim == 4 else W.T
        torch.testing.assert_close(gram, W.T @ W, rtol=0, atol=1e-5)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(merge(opt).eval()(x), opt(x))


@pytest.mark.parametrize("name", ["landing", "pogo", "frame", "oft", "boft", "hra", "givens"])
def test_training_keeps_the_energy(name: str) -> None:
    opt = OPT(small_cnn(), name)
    before = {layer: hyperspherical_energy(W) for layer, W in opt.neurons().items()}
    losses = train(opt, steps=30)
    assert losses[-1] < losses[0]
    exact = name != "landing"
    assert opt.orthogonality_error() < (1e-4 if exact else 0.5)
    for layer, V in opt.neurons().items():
        torch.testing.assert_close(
            hyperspherical_energy(V), before[layer], rtol=1e-4 if exact else 0.2, atol=0
        )


@pytest.mark.parametrize("name", RIVALS)
def test_goes_on_to_the_bit_from_its_state(name: str) -> None:
    def steps(opt: OPT, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
        generator = torch.Generator().manual_seed(1)
        x, y = torch.randn(24, 1, 4, 4, generator=generator), torch.arange(24) % 3
        losses = []
        for _ in range(count):
            loss = cross_entropy(opt(x), y) + opt.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    options = {"round_steps": 2} if name == "poet" else {}
    opt = OPT(mlp(), name, **options)
    optimizer = opt.optimizer(lr=0.05)
    steps(opt, optimizer, 3)
    file = io.BytesIO()
    torch.save([opt.state_dict(), optimizer.state_dict(), torch.get_rng_state()], file)
    rest = steps(opt, optimizer, 3)

    torch.manual_seed(7)
    other = OPT(mlp(), name, **options)
    again = other.optimizer(lr=0.05)
    file.seek(0)
    state, optimizer_state, drawn = torch.load(file, weights_only=True)
    other.load_state_dict(state)
    again.load_state_dict(optimizer_state)
    torch.set_rng_state(drawn)
    assert steps(other, again, 3) == rest


@pytest.mark.parametrize("form", [*FORMS, "upt"])
def test_gradients_are_autograds_in_float64(form: str) -> None:
    method = METHODS["upt"]() if form == "upt" else build(form)
    layer = Layer("fc", "fc.weight", 8, 3)
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(1, 8, 3, generator=generator, dtype=torch.float64)
    start = method.init(layer, W[0], generator)["R"].double().unsqueeze(0)
    step = 0.3 * torch.randn(start.shape, generator=generator, dtype=torch.float64)

    def rotated(step: Tensor) -> Tensor:
        # torch's Householder map reads signs off the diagonal of R, where it has no derivative.
        return method.rotate(start + (step.tril(-1) if form == "torch householder" else step), W)

    assert torch.autograd.gradcheck(rotated, step.requires_grad_())


def test_boft_is_a_product_of_permuted_blocks() -> None:
    """Against matrices: of 2^i neighbouring half blocks, first half meets second half."""
    method = METHODS["boft"](block=4, factors=3)
    d, b = 16, 4
    R = method.init(Layer("fc", "fc.weight", d, 1), torch.empty(d, 1), None)["R"]
    assert R.shape == (3, 4, 4, 4)
    R = torch.randn(1, *R.shape, dtype=torch.float64)
    A = R.triu(1) - R.triu(1).mT
    eye = torch.eye(b, dtype=R.dtype)
    blocks = (torch.linalg.inv(eye - A) @ (eye + A))[0]
    Q = torch.eye(d, dtype=R.dtype)
    for i in range(3):
        # Place of each coordinate among the blocks: half blocks of a group, alternately.
        halves = torch.arange(d).reshape(-1, 2, 2**i, b // 2)
        place = halves.transpose(1, 2).flatten()
        B = torch.zeros(d, d, dtype=R.dtype)
        B[place[:, None], place] = torch.block_diag(*blocks[i])
        Q = B @ Q
        joined = (B != 0).nonzero()
        assert (joined[:, 0] - joined[:, 1]).abs().max() == (
            2**i - 1
        ) * b // 2 + b // 2 + b // 2 - 1
    W = torch.randn(1, d, 5, dtype=torch.float64)
    torch.testing.assert_close(method.rotate(R, W)[0], Q @ W[0])


@pytest.mark.parametrize(
    ("d", "block", "sizes"), [(288, 8, (8, 3)), (27, 8, (9, 1)), (16, 16, (16, 1))]
)
def test_boft_has_as_many_factors_as_d_allows(d: int, block: int, sizes: tuple[int, int]) -> None:
    assert METHODS["boft"](block=block).sizes(d) == sizes


def test_givens_is_a_product_of_rotations_of_pairs() -> None:
    d = 7
    pairs = [(0, 1), (2, 3), (4, 5), (0, 2), (4, 6), (0, 4)]
    R = torch.randn(1, d - 1, dtype=torch.float64)
    Q = torch.eye(d, dtype=torch.float64)
    for (i, j), r in zip(pairs, R[0], strict=True):
        angle = math.pi * math.tanh(r)
        G = torch.eye(d, dtype=torch.float64)
        G[i, i] = G[j, j] = math.cos(angle)
        G[i, j], G[j, i] = -math.sin(angle), math.sin(angle)
        Q = G @ Q
    W = torch.randn(1, d, 4, dtype=torch.float64)
    torch.testing.assert_close(METHODS["givens"]().rotate(R, W)[0], Q @ W[0])


def test_hra_is_a_product_of_reflections() -> None:
    R = torch.randn(1, 6, 4, dtype=torch.float64)
    Q = torch.eye(6, dtype=torch.float64)
    for u in R[0].T:
        Q = (torch.eye(6, dtype=torch.float64) - 2 * torch.outer(u, u) / (u @ u)) @ Q
    W = torch.randn(1, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(METHODS["hra"]().rotate(R, W)[0], Q @ W[0])


@pytest.mark.parametrize("b", [32, 127, 128])
def test_many_blocks_are_their_blocks_one_by_one(b: int, two_threads: None) -> None:
    """Batched LU on the CPU returns garbage for larger matrices and several threads."""
    R = torch.randn(6, b, b, generator=torch.Generator().manual_seed(0))
    together = cayley_blocks(R)
    assert orthogonality_error(together).max() < 1e-5
    for i in range(6):
        torch.testing.assert_close(together[i], cayley_blocks(R[i : i + 1])[0], rtol=0, atol=1e-4)


def test_coft_stays_near_the_identity() -> None:
    opt = OPT(small_cnn(), "oft", constrained=True, block=4, eps=1e-3)
    train(opt, steps=5, lr=1.0)
    for stack in opt.stacks:
        R = stack.trained["R"]
        _, r, b, _ = R.shape
        A = (R.triu(1) - R.triu(1).mT).detach()
        norms = torch.linalg.matrix_norm(A)
        assert norms.max() == pytest.approx(1e-3 * b**2 / r**0.5, rel=1e-3)


def test_poet_keeps_the_spectrum_and_mixes_neurons() -> None:
    opt = OPT(small_cnn(), "poet", block=4, round_steps=3)
    spectra = {name: torch.linalg.svdvals(V) for name, V in opt.neurons().items()}
    lengths = {name: V.norm(dim=0) for name, V in opt.neurons().items()}
    orders = [stack.tensors["rows"].clone() for stack in opt.stacks]
    train(opt, steps=7, lr=0.5)
    assert opt.orthogonality_error() < 1e-5
    assert opt.measure()["spectrum_change"] < 1e-5
    for name, V in opt.neurons().items():
        torch.testing.assert_close(torch.linalg.svdvals(V), spectra[name], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(V.norm(dim=0), lengths[name], rtol=1e-2)
    assert any(not torch.equal(stack.tensors["rows"], order)
               for stack, order in zip(opt.stacks, orders, strict=True))  # fmt: skip


def test_a_round_of_poet_turns_without_moving_the_network() -> None:
    opt = scrambled(OPT(small_cnn(), "poet", block=4))
    before = opt.neurons()
    for stack in opt.stacks:
        stack.merge()
        stack.restart(1)
        assert not any(tensor.any() for tensor in stack.trained.values())
    for name, V in opt.neurons().items():
        torch.testing.assert_close(V, before[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("spread", "error"), [(0.1, 2.0e-4), (0.3, 1.6e-2), (0.5, 1.2e-1)])
def test_the_series_of_poet_is_orthogonal_for_small_r_alone(spread: float, error: float) -> None:
    """Q^T Q - I is about 2 q^4 for three terms, q = ||A||_2: at 2 x 2 it is that to the digit."""
    A = torch.tensor([[[0.0, spread], [0, 0]]], dtype=torch.float64)
    found = float(orthogonality_error(neumann_blocks(A, 3)))
    assert found == pytest.approx(error, rel=0.1)


def test_the_series_of_poet_moves_the_spectrum_round_by_round() -> None:
    opt = OPT(small_cnn(), "poet", block=4, terms=3, round_steps=2)
    changes = []
    for _ in range(3):
        scrambled(opt, 0.3)
        assert opt.orthogonality_error() > 1e-4
        for stack in opt.stacks:
            opt.method.after_step([stack], 2, opt.optimizer(lr=0.1))
        assert opt.orthogonality_error() == 0
        changes.append(opt.measure()["spectrum_change"])
    assert 1e-3 < changes[0] < changes[-1]


@pytest.mark.parametrize(
    ("d", "wanted", "block"),
    [(288, 32, 32), (27, 32, 27), (9, 4, 3), (7, 4, 7), (1, 8, 1), (12, 5, 6), (100, 32, 25)],
)
def test_blocks_divide_d(d: int, wanted: int, block: int) -> None:
    assert divisor_near(d, wanted) == block


def test_landing_lands() -> None:
    """From a U that is off the manifold, with no gradient at all."""
    opt = OPT(small_cnn(), "landing")
    optimizer = opt.optimizer(lr=0.1)
    stack = next(stack for stack in opt.stacks if "S" in stack.tensors)
    U = stack.trained["R"]
    with torch.no_grad():
        U *= 1.05
    before = opt.orthogonality_error()
    for _ in range(100):
        U.grad = torch.zeros_like(U)
        optimizer.step()
    assert before > 0.1
    assert opt.orthogonality_error() < 0.1 * before


@pytest.mark.parametrize("name", ["landing", "pogo"])
@pytest.mark.parametrize(("d", "n"), [(20, 5), (6, 9)])
def test_steps_on_the_manifold_as_published(name: str, d: int, n: int) -> None:
    """Written out with square matrices for rows, as the sources have them, without momentum."""
    size = min(n, d) if n < d else d
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(d, n, generator=generator, dtype=torch.float64)
    method = METHODS[name]()
    layer = Layer("fc", "fc.weight", d, n)
    fixed = dict(method.draw(layer, W, generator))
    U = nn.Parameter(method.init(layer, W, generator, **fixed)["R"].to(W).unsqueeze(0))
    assert U.shape == (1, d, size)
    G = torch.randn(U.shape, generator=generator, dtype=torch.float64)
    X, grad = U.detach()[0].T.clone(), G[0].T
    lr = 0.02
    relative = (X @ X.T @ grad - X @ grad.T @ X) / 2
    if name == "pogo":
        M = X - lr * relative
        expected = M + (M - M @ M.T @ M) / 2
    else:
        expected = X - lr * (relative + (X @ X.T - torch.eye(size)) @ X)
    options = method.optimizer_options("R", 0.1, 0.0)
    U.grad = G
    optimizer = method.optimizer_class([{"params": [U], **options}], lr=lr, momentum=0.9)
    optimizer.step()
    torch.testing.assert_close(U.detach()[0].T, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ROTATING)
def test_w_trains_beside_r(name: str) -> None:
    opt = OPT(mlp(), name, train_w=True)
    before = copy.deepcopy(opt.state_dict())
    optimizer = opt.optimizer(lr=0.05)
    x, y = torch.randn(24, 1, 4, 4), torch.arange(24) % 3
    for _ in range(2):
        (cross_entropy(opt(x), y) + opt.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
    for stack in opt.stacks:
        assert not torch.equal(stack.trained["R"], before_of(stack.trained["R"], opt, before))
        for layer in stack.layers:
            assert not torch.equal(stack.parameter(layer), before[f"network.{layer.parameter}"])
    torch.testing.assert_close(merge(opt.eval()).eval()(x), opt(x))


def before_of(tensor: Tensor, opt: OPT, before: dict[str, Any]) -> Tensor:
    return next(before[name] for name, p in opt.named_parameters() if p is tensor)


@pytest.mark.parametrize("name", ["cayley", "frame", "poet"])
@pytest.mark.parametrize("neurons", ["normalised", "refined"])
def test_w_starts_with_other_neurons(name: str, neurons: str) -> None:
    drawn, opt = OPT(small_cnn(), name).neurons(), OPT(small_cnn(), name, neurons=neurons)
    for layer, V in opt.neurons().items():
        if neurons == "normalised":
            length = drawn[layer].square().sum(0).mean().sqrt()
            torch.testing.assert_close(V.norm(dim=0), length.expand(V.shape[1]), rtol=1e-4, atol=0)
        else:
            assert hyperspherical_energy(V) < hyperspherical_energy(drawn[layer])


@pytest.mark.parametrize(("d", "n"), [(20, 6), (5, 6), (3, 12), (9, 32), (4, 1), (1, 3)])
def test_refined_neurons_have_less_energy_and_their_lengths(d: int, n: int) -> None:
    W = torch.randn(d, n, generator=torch.Generator().manual_seed(0))
    refined = prepared(W, "refined")
    torch.testing.assert_close(refined.norm(dim=0), W.norm(dim=0))
    if 1 < n <= d + 1:
        unit = refined / refined.norm(dim=0)
        cosines = unit.T @ unit
        cosines.fill_diagonal_(-1 / (n - 1))
        torch.testing.assert_close(cosines, torch.full((n, n), -1 / (n - 1)), rtol=0, atol=1e-5)
    elif d > 1 and n > 1:
        assert hyperspherical_energy(refined) < 0.98 * hyperspherical_energy(W)
        assert prepared(W, "drawn") is W


def test_equal_neurons_are_refined() -> None:
    W = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    W[:, 1] = 3 * W[:, 0]
    refined = prepared(W, "refined")
    torch.testing.assert_close(refined.norm(dim=0), W.norm(dim=0))
    unit = refined / refined.norm(dim=0)
    off = (unit.T @ unit)[~torch.eye(5, dtype=torch.bool)]
    torch.testing.assert_close(off, torch.full((20,), -1 / 4), rtol=0, atol=1e-5)


def test_twelve_refined_neurons_are_an_icosahedron() -> None:
    """The least energy of 12 points on the sphere is known: 49.165253 for s = 1, each pair once."""
    W = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    energy = float(hyperspherical_energy(prepared(W, "refined"))) / 2
    assert energy == pytest.approx(49.165253, rel=1e-4)


@pytest.mark.parametrize("d", [16, 6])
def test_an_orthogonal_start(d: int) -> None:
    n = 9
    layer = Layer("fc", "fc.weight", d, n)
    W = METHODS["orthogonal_init"]().initial_weight(
        layer, torch.empty(d, n), torch.Generator().manual_seed(0)
    )
    gram = W.T @ W if n <= d else W @ W.T
    torch.testing.assert_close(gram, 2 * torch.eye(min(d, n)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("network", [small_cnn, mlp])
def test_a_delta_orthogonal_start(network: Any) -> None:
    opt = OPT(network(), "delta_orthogonal")
    for layer in opt.hidden:
        weight = opt.network.get_parameter(layer.parameter).detach()
        taps = weight.flatten(2) if layer.kernel else weight.unsqueeze(-1)
        centre = 0
        for side in layer.kernel:
            centre = centre * side + side // 2
        if layer.kernel:
            assert not taps[..., [i for i in range(taps.shape[-1]) if i != centre]].any()
        tap = taps[..., centre]
        gram = tap.T @ tap if len(tap) >= tap.shape[1] else tap @ tap.T
        torch.testing.assert_close(gram, 2 * torch.eye(len(gram)), rtol=0, atol=1e-5)


def test_what_cannot_register_is_explained() -> None:
    with pytest.raises(UserError, match=r"constraint=no\.such cannot be imported"):
        OPT(mlp(), "parametrization", constraint="no.such")
    with pytest.raises(UserError, match="does not register"):
        OPT(mlp(), "parametrization", constraint="torch.nn.init.ones_")
    with pytest.raises(UserError, match=r"unexpected keyword argument 'x'"):
        OPT(mlp(), "parametrization", arguments={"x": [1]})
    with pytest.raises(UserError, match=r"hra.reflections"):
        OPT(mlp(), "hra", reflections=3)


def test_every_method_has_a_family() -> None:
    families = {"ablation", "lengths", "manifold", "maps", "penalties", "spectrum", "starts"}
    assert {METHODS[name].family for name in RIVALS} == families
    assert all(isinstance(METHODS[name](), Method) for name in METHODS)
