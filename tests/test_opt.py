"""OPT around any module: ours, torchvision's, and small ones with tricks."""

import copy
import pickle

import pytest
import torch
from torch import nn

from opt_runner import OPT, hyperspherical_energy, merge
from opt_runner.errors import UserError
from opt_runner.methods import METHODS, StochasticOPT
from opt_runner.networks import MLP, PlainCNN

ROTATING = [name for name in METHODS if name != "standard"]


def small_cnn() -> PlainCNN:
    torch.manual_seed(0)
    return PlainCNN(3, (8, 8), 5, widths=(6, 8), convs=2, fc_width=7, bn_momentum=0.1)


def train(opt: OPT, steps: int = 4, **options: float) -> list[float]:
    optimizer = opt.optimizer(**{"lr": 0.05, **options})
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        x = torch.randn(16, 3, 8, 8, generator=generator)
        y = torch.randint(5, (16,), generator=generator)
        loss = nn.functional.cross_entropy(opt(x), y) + opt.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("method", METHODS)
def test_trains_and_merges_into_an_equal_plain_network(method: str) -> None:
    opt = OPT(small_cnn(), method)
    before = {name: p.detach().clone() for name, p in opt.named_parameters()}
    train(opt)
    changed = [n for n, p in opt.named_parameters() if not torch.equal(p, before[n])]
    frozen = [n for n, p in opt.named_parameters() if not p.requires_grad]
    assert set(changed) == set(before) - set(frozen) or method == "sopt"
    plain = merge(opt)
    assert type(plain) is PlainCNN
    assert {n for n, _ in plain.named_parameters()} == {
        n for n, _ in small_cnn().named_parameters()
    }
    assert all(p.requires_grad for p in plain.parameters())
    x = torch.randn(4, 3, 8, 8)
    opt.eval()
    plain.eval()
    torch.testing.assert_close(plain(x), opt(x))


@pytest.mark.parametrize("method", ["gs", "hr", "ls", "cayley", "ogd", "sopt"])
def test_training_keeps_the_energy_of_every_layer(method: str) -> None:
    opt = OPT(small_cnn(), method)
    before = {name: hyperspherical_energy(W) for name, W in opt.neurons().items()}
    train(opt, steps=30)
    assert opt.orthogonality_error() < 2e-5
    for name, V in opt.neurons().items():
        torch.testing.assert_close(hyperspherical_energy(V), before[name], rtol=1e-4, atol=0)


def test_plain_training_moves_the_energy() -> None:
    opt = OPT(small_cnn(), "standard")
    before = {name: hyperspherical_energy(W) for name, W in opt.neurons().items()}
    train(opt, steps=30)
    assert opt.orthogonality_error() is None
    moved = [abs(hyperspherical_energy(V) / before[n] - 1) for n, V in opt.neurons().items()]
    assert max(moved) > 1e-3


@pytest.mark.parametrize("method", ROTATING)
def test_state_dict_copies_and_pickles(method: str) -> None:
    opt = OPT(small_cnn(), method)
    train(opt, steps=2)
    other = OPT(small_cnn(), method)
    other.load_state_dict(opt.state_dict())
    for twin in (other, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        x = torch.randn(4, 3, 8, 8)
        torch.testing.assert_close(twin.eval()(x), opt.eval()(x), rtol=0, atol=0)


def test_layers_of_one_size_share_a_stack() -> None:
    opt = OPT(PlainCNN(3, (32, 32), 10, convs=3), "cayley")
    sizes = {(g.size.d, g.size.n): tuple(g.R.shape) for g in opt.rotations}
    assert sizes == {(27, 64): (1, 27, 27), (576, 64): (8, 576, 576), (1024, 64): (1, 1024, 1024)}


def test_sopt_writes_its_rounds_into_w() -> None:
    opt = OPT(small_cnn(), StochasticOPT(round_steps=5, share=0.5))
    first, *others = opt.rotations
    assert first.rows is None, "the first layer is rotated whole"
    optimizer = opt.optimizer(lr=0.05)
    W = {n: p.detach().clone() for n, p in opt.network.named_parameters() if not p.requires_grad}
    rows = others[0].rows.clone()

    def step() -> None:
        opt(torch.randn(8, 3, 8, 8)).tanh().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(4):
        step()
    assert all(torch.equal(opt.network.get_parameter(n), w) for n, w in W.items())
    step()
    assert torch.equal(opt.network.get_parameter("features.0.weight"), W["features.0.weight"])
    assert not torch.equal(opt.network.get_parameter("features.3.weight"), W["features.3.weight"])
    assert not torch.equal(others[0].rows, rows)
    for group in others:
        k, s, _ = group.R.shape
        assert torch.equal(group.R, torch.eye(s).expand(k, s, s))
        assert group.R not in optimizer.state
    assert first.R in optimizer.state


@pytest.mark.parametrize("inner", ["gs", "hr", "ls", "cayley"])
def test_a_sopt_round_turns_without_moving_the_network(inner: str) -> None:
    opt = OPT(small_cnn(), "sopt", inner=inner, share=0.5)
    train(opt, steps=3)
    before = opt.neurons()
    weights = {f"{n}.weight": opt.network.get_parameter(f"{n}.weight") for n in opt.layers}
    for group in opt.rotations:
        if group.rows is not None:
            group.start_round(weights)
    for name, V in opt.neurons().items():
        torch.testing.assert_close(V, before[name], rtol=0, atol=1e-5)


def test_a_torchvision_network() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    opt = OPT(resnet18(num_classes=5), "cayley", start="identity")
    assert "fc" not in opt.layers
    assert len(opt.layers) == 20
    small = OPT(resnet18(num_classes=5), "gs", layers=["conv1", "layer1.0.conv1"])
    small(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(group.R.grad is not None for group in small.rotations)


def test_grouped_convolutions_and_shared_weights() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(4, 8, 3, groups=2, padding=1)
            self.two = nn.Linear(8, 8)
            self.twin = nn.Linear(8, 8)
            self.twin.weight = self.two.weight
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.twin(self.two(self.one(x).mean((2, 3)))))

    opt = OPT(Odd(), "cayley")
    assert opt.layers == ["one", "two"]
    x = torch.randn(2, 4, 5, 5)
    opt(x).sum().backward()
    torch.testing.assert_close(merge(opt)(x), opt(x))


def test_rotations_stay_float32_under_autocast() -> None:
    opt = OPT(small_cnn(), "cayley")
    with torch.autocast("cpu", torch.bfloat16):
        assert all(V.dtype == torch.float32 for V in opt.effective_weights().values())
        assert opt(torch.randn(2, 3, 8, 8)).dtype == torch.bfloat16


@pytest.mark.parametrize("channels_last", [True, False])
def test_effective_weights_keep_the_memory_layout(channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    opt = OPT(small_cnn().to(memory_format=layout), "cayley")
    for name, V in opt.effective_weights().items():
        assert V.is_contiguous(memory_format=layout), name


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: OPT(small_cnn(), "caylee"), "unknown method 'caylee'; did you mean 'cayley'"),
        (
            lambda: OPT(small_cnn(), "sopt", share=2.0),
            "sopt.share: must be less than or equal to 1",
        ),
        (lambda: OPT(small_cnn(), "gs", shear=1), "unknown key 'gs.shear'"),
        (lambda: OPT(small_cnn(), "ogd", start="normal"), "ogd keeps R orthogonal"),
        (lambda: OPT(small_cnn(), layers=["fd"]), "'fd' is no linear or convolution layer"),
        (lambda: OPT(nn.Sequential(nn.ReLU())), "needs two"),
        (lambda: OPT(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))), "is lazy"),
        (lambda: PlainCNN(3, (7, 9), 5), "at least 8 x 8"),
    ],
)
def test_mistakes_are_explained(make, says: str) -> None:
    with pytest.raises(UserError, match=r"(?s).*") as caught:
        make()
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("size", "left"), [((8, 8), (1, 1)), ((32, 32), (4, 4)), ((9, 31), (1, 3))]
)
def test_cnn_takes_any_size_that_leaves_a_pixel(size: tuple[int, int], left: tuple) -> None:
    network = PlainCNN(1, size, 3, widths=(4, 4, 4))
    assert network.fc.kernel_size == left
    assert network(torch.randn(2, 1, *size)).shape == (2, 3)


def test_mlp() -> None:
    opt = OPT(MLP(2, (5, 4), 3, widths=(12, 9)), "ls")
    assert opt.layers == ["features.1", "features.4"]
    assert opt(torch.randn(6, 2, 5, 4)).shape == (6, 3)
