"""OPT around any module: ours, torchvision's, and small ones with tricks."""

import copy
import pickle

import pytest
import torch
from torch import nn

from opt_runner import OPT, Rule, hyperspherical_energy, merge
from opt_runner.errors import UserError
from opt_runner.methods import METHODS
from opt_runner.networks import PlainCNN
from tests.small import small_cnn, train

ROTATING = [name for name in METHODS if name != "standard"]


@pytest.mark.parametrize("method", METHODS)
def test_trains_and_merges_into_an_equal_plain_network(method: str) -> None:
    opt = OPT(small_cnn(), method)
    before = {name: p.detach().clone() for name, p in opt.named_parameters()}
    train(opt)
    changed = [n for n, p in opt.named_parameters() if not torch.equal(p, before[n])]
    frozen = [n for n, p in opt.named_parameters() if not p.requires_grad]
    assert set(changed) == set(before) - set(frozen)
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
    x = torch.randn(4, 3, 8, 8)
    opt(x)  # a step that is not finished: what its penalty needs is there
    other = OPT(small_cnn(), method)
    other.load_state_dict(opt.state_dict())
    for twin in (other, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        torch.testing.assert_close(twin.eval()(x), opt.eval()(x), rtol=0, atol=0)
        penalties = []
        for of in (twin, opt):
            torch.manual_seed(2)  # some penalties draw
            penalties.append(of.penalty())
        torch.testing.assert_close(*penalties, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))])
def test_a_copy_shares_nothing(method: str, twin_of) -> None:
    opt = OPT(small_cnn(), method)
    before = copy.deepcopy(opt.state_dict())
    twin = twin_of(opt)
    losses = train(twin)
    for name, value in opt.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, before[name]), name
    assert train(opt) == losses


@pytest.mark.parametrize("method", METHODS)
def test_a_state_that_is_assigned_leaves_no_stale_reference(method: str) -> None:
    options = {"round_steps": 2} if method == "sopt" else {}
    other = OPT(small_cnn(), method, **options)
    train(other, steps=3)
    state = copy.deepcopy(other.state_dict())
    opt = OPT(small_cnn(), method, **options)
    trains = {name: p.requires_grad for name, p in opt.named_parameters()}
    former = {name: (p, p.detach().clone()) for name, p in opt.named_parameters()}
    opt.load_state_dict(state, assign=True)

    assert {name: p.requires_grad for name, p in opt.named_parameters()} == trains
    for name, p in opt.named_parameters():
        assert p.data_ptr() == state[name].data_ptr()
    for stack in opt.stacks:
        assert all(p is opt.get_parameter(f"network.{layer.parameter}")
                   for layer in stack.layers for p in [stack.parameter(layer)])  # fmt: skip
    assert train(opt) == train(other)
    for name, (p, value) in former.items():
        assert torch.equal(p, value), f"{name}: the former parameter is left alone"
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(merge(opt.eval()).eval()(x), other.eval()(x))


def test_what_the_user_has_frozen_stays_frozen() -> None:
    network = small_cnn()
    frozen = network.get_parameter("features.3.weight").requires_grad_(False)
    before = frozen.clone()
    opt = OPT(network, "standard")
    train(opt)
    assert torch.equal(frozen, before)
    assert {n for n, p in opt.network.named_parameters() if not p.requires_grad} == {
        "features.3.weight"
    }
    merged = merge(opt)
    assert not merged.get_parameter("features.3.weight").requires_grad


def test_a_torchvision_network() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    opt = OPT(resnet18(num_classes=5), "cayley", start="identity")
    assert "fc" not in opt.layers
    assert len(opt.layers) == 20
    small = OPT(resnet18(num_classes=5), "gs", include=["conv1", "layer1.0.conv1"])
    small(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(stack.trained["R"].grad is not None for stack in small.stacks)


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
def test_effective_weights_keep_the_strides(channels_last: bool) -> None:
    """Also those of axes of size 1, by which convolutions choose a layout, and crash at some."""
    two = [(3, 48, 1), (8, 5, 3), (5, 1, 3), (1, 8, 3), (8, 8, (1, 3)), (8, 4, (3, 1))]
    layers = [nn.Conv2d(*sizes) for sizes in two] + [nn.Conv2d(4, 4, 3, groups=4)]
    network = nn.Sequential(*layers)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    network.append(nn.Conv3d(3, 4, (1, 3, 1)))
    network.append(nn.Conv1d(6, 4, 1)).append(nn.Linear(3, 5))
    opt = OPT(network, "cayley", include=["*"])
    covered = opt.effective_weights()
    assert len(covered) == len(network)
    for name, V in covered.items():
        assert V.stride() == network.get_parameter(name).stride(), name


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: OPT(small_cnn(), "caylee"), "unknown method 'caylee'; did you mean 'cayley'"),
        (
            lambda: OPT(small_cnn(), "sopt", share=2.0),
            "sopt.share: must be less than or equal to 1",
        ),
        (lambda: OPT(small_cnn(), "gs", shear=1), "unknown key 'gs.shear'"),
        (lambda: OPT(small_cnn(), "ogd", start="normal"), "R is kept orthogonal"),
        (lambda: OPT(small_cnn(), include=["fcc"]), "'fcc' is no layer that can be covered; did"),
        (lambda: OPT(nn.Sequential(nn.ReLU())), "covers no layer of Sequential: 0 of 0 are"),
        (lambda: OPT(nn.Sequential(nn.Linear(2, 2))), "0 of 1 are frozen"),
        (lambda: OPT(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))), "is lazy"),
    ],
)
def test_mistakes_are_explained(make, says: str) -> None:
    with pytest.raises(UserError, match=r"(?s).*") as caught:
        make()
    assert says in str(caught.value)


def test_rotations_may_have_a_learning_rate_of_their_own() -> None:
    opt = OPT(small_cnn(), "gs")
    rates = {
        id(p): group["lr"]
        for group in opt.optimizer(lr=0.1, rotation_lr=0.5).param_groups
        for p in group["params"]
    }
    rotations = {id(R) for R in opt.stacks.parameters()}
    assert {rates[one] for one in rotations} == {0.5}
    assert {rates[one] for one in rates.keys() - rotations} == {0.1}


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("standard", "Standard trains nothing beside the network"),
        ("ogd", "OrthogonalGradientDescent has an option of its own for the learning rate of R"),
    ],
)
def test_a_learning_rate_of_rotations_that_has_no_effect_is_refused(method: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        OPT(small_cnn(), method).optimizer(lr=0.1, rotation_lr=0.5)


def test_of_several_methods_each_that_can_takes_the_rate_of_rotations() -> None:
    class Slow(METHODS["cayley"]):
        def optimizer_options(self, name, lr, weight_decay):
            options = super().optimizer_options(name, lr, weight_decay)
            return options | {"lr": lr / 10 if name else lr}

    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 6), nn.Linear(6, 3))
    opt = OPT(network, [Rule(Slow(), include=["0"]), Rule("frame")])
    groups = opt.optimizer(lr=0.1, rotation_lr=0.5).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    slow, frame = (next(iter(stack.trained.values())) for stack in opt.stacks)
    assert (rates[id(slow)], rates[id(frame)]) == (0.05, 0.02)


def test_short_weights_are_named_where_a_method_keeps_them() -> None:
    def notes(std: float, method: str, **options: str) -> set[str]:
        network = nn.Sequential(nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 10))
        nn.init.normal_(network[0].weight, std=std)
        return {row.note for row in OPT(network, method, **options).summary().rows} - {"output"}

    short = "W is short, and rotations keep its length; weights=gaussian draws it anew"
    assert notes(0.02, "cayley") == {short, ""}
    assert notes(0.02, "frame") == {short, ""}
    assert notes(0.2, "cayley") == {""}
    assert notes(0.02, "standard") == {""}
    assert notes(0.02, "cayley", weights="gaussian") == {""}
    assert notes(0.02, "cayley", weights="pretrained") == {""}, "fine-tuning keeps what it gets"
