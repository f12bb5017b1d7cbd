"""What a method outside the package may rely on. Those of `own/` run by command in tests/cli."""

import copy
import io
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from opt_runner import OPT, merge
from opt_runner.errors import UserError
from opt_runner.methods import Cayley, Method, Rotation, method_options
from opt_runner.networks import MLP, PlainCNN
from tests.methods.own.block_diagonal import BlockDiagonal
from tests.methods.own.projected_energy import ProjectedEnergy
from tests.methods.own.two_sided import TwoSided

OWN = [ProjectedEnergy(scale=0.01, dimensions=6), TwoSided(), BlockDiagonal(block=4)]
own = pytest.mark.parametrize("method", OWN, ids=lambda method: type(method).__name__)


def mlp() -> MLP:
    torch.manual_seed(0)
    return MLP(1, (4, 4), 3, widths=(12, 12, 8), bn_momentum=0.1)


def cnn() -> PlainCNN:
    torch.manual_seed(0)
    return PlainCNN(3, (8, 8), 5, widths=(6, 6), convs=2, fc_width=6, bn_momentum=0.1)


def train(opt: OPT, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """The losses, without the penalty, on one batch that a linear map labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(48, 1, 4, 4, generator=generator)
    y = (x.flatten(1) @ torch.randn(16, 3, generator=generator)).argmax(-1)
    losses = []
    for _ in range(steps):
        loss = cross_entropy(opt(x), y)
        optimizer.zero_grad()
        (loss + opt.penalty()).backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@own
def test_the_loss_falls_and_the_merged_network_is_equal(method: Method) -> None:
    opt = OPT(mlp(), method)
    losses = train(opt, opt.optimizer(lr=0.05), 30)
    assert losses[-1] < losses[0] / 2
    x = torch.randn(5, 1, 4, 4)
    torch.testing.assert_close(merge(opt.eval()).eval()(x), opt(x))


@own
def test_goes_on_to_the_bit_from_its_state(method: Method) -> None:
    opt = OPT(mlp(), method)
    optimizer = opt.optimizer(lr=0.05)
    train(opt, optimizer, 5)
    file = io.BytesIO()
    torch.save([opt.state_dict(), optimizer.state_dict(), torch.get_rng_state()], file)
    rest = train(opt, optimizer, 5)

    torch.manual_seed(7)
    other = OPT(mlp(), method)
    again = other.optimizer(lr=0.05)
    file.seek(0)
    state, optimizer_state, drawn = torch.load(file, weights_only=True)
    other.load_state_dict(state)
    again.load_state_dict(optimizer_state)
    torch.set_rng_state(drawn)
    assert train(other, again, 5) == rest


def test_a_penalty_alone_rotates_nothing() -> None:
    opt = OPT(mlp(), ProjectedEnergy())
    assert opt.effective_weights() == {}
    assert all(p.requires_grad for p in opt.network.parameters())
    opt.penalty().backward()
    assert all(opt.network.get_submodule(name).weight.grad.any() for name in opt.layers)
    assert opt.network.classifier.weight.grad is None


def test_blocks_on_the_diagonal_are_their_block_diagonal_matrix() -> None:
    R = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    W = torch.randn(2, 12, 5, dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)
    A = R.triu(1) - R.triu(1).mT
    Q = (eye + A) @ torch.linalg.inv(eye - A)
    expected = torch.stack([torch.block_diag(*blocks) for blocks in Q]) @ W
    torch.testing.assert_close(BlockDiagonal(block=4).rotate(R, W), expected)


def test_two_sides_keep_the_spectrum_and_not_the_energy() -> None:
    opt = OPT(mlp(), TwoSided())
    train(opt, opt.optimizer(lr=0.05), 10)
    assert opt.orthogonality_error() < 1e-5
    for name, V in opt.neurons().items():
        W = opt.network.get_submodule(name).weight.T
        spectra = (torch.linalg.svdvals(V), torch.linalg.svdvals(W))
        torch.testing.assert_close(*spectra, rtol=0, atol=1e-5)
        assert not torch.allclose(V.norm(dim=0), W.norm(dim=0), rtol=1e-2)


def test_a_fault_that_a_layer_brings_to_light() -> None:
    with pytest.raises(UserError, match=r"method.block=5 does not divide d = 16 of features.1"):
        OPT(mlp(), BlockDiagonal(block=5))


@method_options
class Watched(Method):
    """Penalty and measure of everything they are given; all layers, apart by `kind`."""

    seen: ClassVar[list[tuple]] = []

    def covers(self, layer) -> bool:
        return True

    def kind(self, layer):
        return layer.stride, layer.output

    def draw(self, layer, W, generator):
        return {"S": torch.randperm(layer.d, generator=generator)}

    def penalty(self, layer, W, V, step, S):
        assert W is V
        self.seen.append((layer, tuple(W.shape), step, S.dtype))
        return 0 * W.sum()

    def measure(self, W, V, S):
        return {"first_row": S[:, 0].double()}


def test_what_a_penalty_is_told() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, (1, 2), stride=(2, 1)), nn.Conv2d(4, 4, (1, 2)),
        nn.Conv2d(4, 4, (1, 2)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8),
        nn.Linear(8, 4),
    )  # fmt: skip
    opt = OPT(network, Watched())
    assert [[layer.name for layer in stack.layers] for stack in opt.stacks] == [
        ["0"], ["1"], ["2", "3"], ["6"], ["7"],
    ]  # fmt: skip
    optimizer = opt.optimizer(lr=0.1)
    for _ in range(2):
        Watched.seen.clear()
        (opt(torch.randn(2, 3, 9, 9)).sum() + opt.penalty()).backward()
        optimizer.step()
    layers, shapes, steps, types = zip(*Watched.seen, strict=True)
    assert shapes == ((1, 27, 4), (1, 8, 4), (2, 8, 4), (1, 4, 8), (1, 8, 4))
    assert set(steps) == {2}
    assert set(types) == {torch.int64}
    assert [layer.kernel for layer in layers] == [(3, 3), (1, 2), (1, 2), (), ()]
    assert [layer.stride for layer in layers] == [(1, 1), (2, 1), (1, 1), (), ()]
    assert [layer.first for layer in layers] == [True, False, False, False, False]
    assert [layer.output for layer in layers] == [False, False, False, False, True]
    assert opt.measure().keys() == {"first_row"}
    assert opt.layers == ["0", "1", "2", "3", "6"], "energies leave the classifier out"


def test_layers_named_by_the_user_are_covered_whatever_the_method_says() -> None:
    opt = OPT(mlp(), "cayley", include=["classifier"])
    (stack,) = opt.stacks
    assert [(layer.name, layer.first, layer.output) for layer in stack.layers] == [
        ("classifier", True, True)
    ]


def test_a_layers_weight_is_the_inverse_of_its_matrix() -> None:
    network = nn.Sequential(
        nn.Conv1d(3, 4, 5), nn.Conv2d(4, 6, (2, 3)), nn.Conv3d(2, 5, (1, 2, 3)), nn.Linear(7, 2)
    )
    stacks = OPT(network, ProjectedEnergy(), include=["*"]).stacks
    for stack in stacks:
        (layer,) = stack.layers
        weight = network.get_parameter(layer.parameter)
        W = layer.matrix(weight)
        assert torch.equal(layer.weight(W), weight)
        assert torch.equal(layer.weight(torch.stack([W, -W])), torch.stack([weight, -weight]))


def test_a_start_of_w() -> None:
    class Orthogonal(Method):
        def covers(self, layer) -> bool:
            return not layer.first

        def initial_weight(self, layer, W, generator):
            return nn.init.orthogonal_(torch.empty(layer.d, layer.n), generator=generator)

    plain, opt = cnn(), OPT(cnn(), Orthogonal(), generator=torch.Generator().manual_seed(3))
    first, *others = opt.hidden
    weights = {layer: opt.network.get_parameter(layer.parameter) for layer in opt.hidden}
    assert torch.equal(weights[first], plain.get_parameter(first.parameter))
    for layer in others:
        W = layer.matrix(weights[layer])
        torch.testing.assert_close(W.T @ W, torch.eye(layer.n), rtol=0, atol=1e-5)
        assert weights[layer].requires_grad


def test_a_start_of_w_reaches_every_stack_before_it_is_drawn() -> None:
    class Tripled(Method):
        def initial_weight(self, layer, W, generator):
            return 3 * W

        def draw(self, layer, W, generator):
            return {"start": W.clone()}

        def weight(self, W, start):
            assert torch.equal(W, start)
            return 2 * start

    opt = OPT(mlp(), Tripled())
    for name, V in opt.neurons().items():
        torch.testing.assert_close(V, 6 * mlp().get_submodule(name).weight.T)


def test_tensors_move_to_the_type_and_device_of_w() -> None:
    """`meta` stands for a GPU: what is left behind on the CPU would show."""
    opt = OPT(mlp().double(), TwoSided())
    assert {p.dtype for p in opt.parameters()} == {torch.float64}
    assert opt(torch.randn(4, 1, 4, 4, dtype=torch.float64)).dtype == torch.float64
    for method in ("cayley", "ogd", "sopt", Watched()):
        opt = OPT(cnn().to("meta"), method)
        tensors = [tensor for stack in opt.stacks for tensor in stack.tensors.values()]
        assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_w_may_train_beside_r() -> None:
    class Both(Cayley):
        trains_weight = True

    opt = OPT(mlp(), Both(start="identity"))
    before = copy.deepcopy(opt.state_dict())
    losses = train(opt, opt.optimizer(lr=0.05), 20)
    assert losses[-1] < losses[0] / 2
    for stack in opt.stacks:
        for layer in stack.layers:
            assert not torch.equal(stack.parameter(layer), before[f"network.{layer.parameter}"])
    assert not torch.equal(opt.stacks[0].trained["R"], before["stacks.0.trained.R"])
    for name, V in opt.neurons().items():
        torch.testing.assert_close(
            V.norm(dim=0), opt.network.get_submodule(name).weight.norm(dim=1), rtol=1e-4, atol=0
        )


def test_a_rotation_may_do_more_than_rotate() -> None:
    class Rescaled(BlockDiagonal):
        def init(self, layer, W, generator):
            return {**super().init(layer, W, generator), "scale": torch.full((layer.n,), 2.0)}

        def weight(self, W, R, scale):
            return super().weight(W, R) * scale.unsqueeze(-2)

    for base in (Rescaled, type("OfCayley", (Rescaled, Cayley), {})):
        opt = OPT(mlp(), base(block=4))
        for name, V in opt.neurons().items():
            torch.testing.assert_close(V, 2 * opt.network.get_submodule(name).weight.T)
        for stack in opt.stacks:
            assert torch.equal(stack.V(), 2 * stack.W())


def test_after_a_step_tensors_may_be_changed_in_place() -> None:
    class Clipped(BlockDiagonal):
        def after_step(self, stacks, step, optimizer) -> None:
            for stack in stacks:
                stack.trained["R"].clamp_(-1e-3, 1e-3)

    opt = OPT(mlp(), Clipped(block=4))
    train(opt, opt.optimizer(lr=0.5), 3)
    assert opt.steps == 3
    assert all(stack.trained["R"].abs().max() == 1e-3 for stack in opt.stacks)


def test_each_tensor_has_options_of_the_optimizer_of_its_own() -> None:
    class Slow(TwoSided):
        def optimizer_options(self, tensor, lr, weight_decay):
            share = {"R": 0.5, "P": 0.25, None: 1}[tensor]
            return {"lr": share * lr, "weight_decay": 0 if tensor else weight_decay}

    opt = OPT(mlp(), Slow())
    groups = opt.optimizer(lr=0.4, weight_decay=0.1).param_groups
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(0.4, 0.1), (0.2, 0), (0.1, 0)]
    trained = {id(p) for p in opt.parameters() if p.requires_grad}
    assert {id(p) for group in groups for p in group["params"]} == trained


def test_a_tensor_of_a_penalty_may_climb_what_the_network_descends() -> None:
    """As a pole that looks for the widest hole between neurons: V stays W, which trains."""

    class Pole(Method):
        def init(self, layer, W, generator):
            return {"pole": torch.randn(layer.d, generator=generator)}

        def penalty(self, layer, W, V, step, pole):
            def product(pole: Tensor, W: Tensor) -> Tensor:
                return torch.einsum("kd,kdn->", pole, W)

            return product(pole.detach(), W) - product(pole, W.detach())

    opt = OPT(mlp(), Pole())
    assert opt.effective_weights() == {}
    stack = opt.stacks[-1]
    opt.penalty().backward()
    (layer,) = stack.layers
    torch.testing.assert_close(stack.trained["pole"].grad, -stack.W().detach().sum(-1))
    torch.testing.assert_close(
        stack.parameter(layer).grad, stack.trained["pole"].detach().expand(layer.n, -1)
    )


def test_a_round_draws_and_starts_again_alike_in_every_process() -> None:
    class Drawn(Rotation):
        def draw(self, layer, W, generator):
            return {"S": torch.randperm(layer.d, generator=generator)}

        def init(self, layer, W, generator, S):
            return {"R": torch.rand(layer.d, generator=generator) + S}

        def weight(self, W, R, S):
            return W.gather(1, S.unsqueeze(-1).expand_as(W))

    opt = OPT(mlp(), Drawn())
    twin = copy.deepcopy(opt)
    before = opt.neurons()
    for stack, other in zip(opt.stacks, twin.stacks, strict=True):
        S = stack.tensors["S"].clone()
        stack.merge()
        stack.restart(4)
        torch.rand(3)
        other.restart(4)
        assert not torch.equal(stack.tensors["S"], S)
        for name in ("S", "R"):
            assert torch.equal(stack.tensors[name], other.tensors[name])
        assert torch.equal(stack.trained["R"].floor().long(), stack.tensors["S"])
        for i, layer in enumerate(stack.layers):
            W = stack.W()[i]
            assert torch.equal(W, before[layer.name])


def test_tensors_that_nothing_uses_are_refused() -> None:
    class Unused(Method):
        def init(self, layer, W, generator):
            return {"R": torch.eye(layer.d)}

    with pytest.raises(TypeError, match="Unused defines init, but neither weight nor penalty"):
        OPT(mlp(), Unused())


def test_a_method_that_covers_nothing_is_refused() -> None:
    class Convolutions(Method):
        def covers(self, layer) -> bool:
            return bool(layer.kernel)

    assert len(OPT(cnn(), Convolutions()).stacks) == 3
    with pytest.raises(UserError, match="Convolutions covers no layer of MLP"):
        OPT(mlp(), Convolutions())
    with pytest.raises(UserError, match="Cayley covers no layer of MLP"):
        OPT(mlp(), "cayley", include=[])
