"""What people do with networks: shared weights, copies, old helpers of PyTorch, wrong arguments."""

import copy
import pickle
import sys

import pytest
import torch
from torch import Tensor, nn

from opt_runner import OPT, merge
from opt_runner.errors import UserError
from opt_runner.methods import METHODS


def two_layers(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))


def test_a_copy_of_a_module_compiled_in_place_is_one_of_its_own() -> None:
    opt, x = OPT(two_layers()), torch.ones(4, 8)
    opt.compile(backend="eager")
    opt(x)
    copied, pickled = copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))
    before = copied(x).detach()
    step(opt, x)
    assert torch.equal(copied(x), before)
    assert torch.equal(pickled(x), before)
    assert not torch.equal(opt(x), before)


def step(opt: OPT, x: Tensor, steps: int = 1) -> None:
    optimizer = opt.optimizer(lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        opt(x).square().mean().backward()
        optimizer.step()


class Tied(nn.Module):
    """Two layers of one weight, and a head that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 10)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.embedding(x)).relu()))


@pytest.mark.parametrize("way", ["assign", "reset", "load"])
def test_weights_stay_shared(way: str) -> None:
    trained, x = OPT(Tied()), torch.arange(10)
    step(trained, x)
    if way == "assign":
        opt = OPT(Tied())
        opt.load_state_dict(trained.state_dict(), assign=True)
    else:
        with torch.device("meta"):
            network = Tied()
        opt = OPT(network)
        opt.to_empty(device="cpu")
        opt.reset_parameters() if way == "reset" else opt.load_state_dict(trained.state_dict())
    if way != "reset":
        assert torch.equal(opt(x), trained(x))
    for one in (opt, copy.deepcopy(opt)):
        assert one.network.second.weight is one.network.first.weight
        assert one.network.head.weight is one.network.embedding.weight
        assert torch.equal(merge(one)(x), one(x))


def test_a_whole_weight_that_is_also_one_of_three_parts_has_one_r() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.qkv = nn.Linear(8, 24, bias=False)
            self.qkv.weight = self.attention.in_proj_weight
            self.head = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.attention(x, x, x)[0], self.qkv(x)], -1))

    opt, x = OPT(Packed(), weights="gaussian"), torch.randn(2, 5, 8)
    assert opt.layers == [*(f"attention.{part}" for part in "qkv"), "attention.out_proj"]
    step(opt, x, steps=2)
    torch.testing.assert_close(merge(opt)(x), opt(x))
    assert OPT(Packed(), include=["qkv"]).layers == opt.layers[:3]


@pytest.mark.parametrize("method", ["cayley", "so", "orthogonal_init"])
def test_a_padding_vector_stays_zero(method: str) -> None:
    network = nn.Sequential(nn.Embedding(10, 6, padding_idx=0), nn.Linear(6, 6), nn.Linear(6, 3))
    opt = OPT(network, method, include=["0", "1"], weights="gaussian")
    assert not opt.network[0].weight[0].any()
    assert opt.network[0].weight[1:].any(1).all()


def test_a_gradient_penalty_beside_other_passes() -> None:
    """WGAN-GP: three forward passes and two backward passes, of which one is in the graph."""
    opt, plain = OPT(two_layers()), OPT(two_layers())
    a, b, between = torch.randn(3, 4, 8)
    between.requires_grad_()

    def loss(network: nn.Module) -> Tensor:
        (slope,) = torch.autograd.grad(network(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        return network(a).mean() - network(b).mean() + penalty

    loss(opt).backward()
    with plain.effective() as network:
        loss(network).backward()
    for mine, theirs in zip(opt.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad)


def test_an_attribute_that_both_have_is_set_by_name() -> None:
    network = two_layers()
    network.hidden = network.state = None
    opt = OPT(network)
    with pytest.raises(AttributeError, match=r"write opt\.network\.hidden"):
        opt.hidden = torch.zeros(2)
    opt.state = 3
    assert opt.network.state == 3
    assert opt.layers == ["0", "2"]


def test_weights_that_a_list_holds_as_well_are_named() -> None:
    network = two_layers()
    network.used = [network[2].weight]
    with pytest.warns(UserWarning, match=r"2\.weight in used: .* R gets no gradient"):
        OPT(network)


def test_a_parameter_over_the_memory_of_w_is_refused() -> None:
    network = two_layers()
    network[2].weight = nn.Parameter(network[0].weight.t())
    with pytest.raises(UserError, match=r"'0' .* it shares memory with 2\.weight"):
        OPT(network)
    network = two_layers()
    network.flat = nn.Parameter(torch.randn(3 * 64))  # over all three, of which one is not covered
    for i, module in enumerate((network[0], network[2], network[2])):
        module.weight = nn.Parameter(network.flat.detach()[64 * i :][:64].view(8, 8))
    with pytest.raises(UserError, match="it shares memory with flat"):
        OPT(network, include=["2"])


def test_parameters_side_by_side_in_one_memory_are_covered() -> None:
    flat = torch.cat([p.detach().flatten() for p in two_layers().parameters()])
    network = two_layers()
    nn.utils.vector_to_parameters(flat, network.parameters())  # side by side in one storage
    assert OPT(network).layers == ["0", "2"]
    both = torch.randn(8, 16)  # as GPT-2's c_attn, taken apart
    for module, part in zip((network[0], network[2]), both.t().split(8), strict=True):
        module.weight = nn.Parameter(part)
    network.rare = nn.Parameter(torch.eye(3).to_sparse(), requires_grad=False)
    assert OPT(network).layers == ["0", "2"]


def test_a_summary_leaves_spectral_norm_as_it_is() -> None:
    network = two_layers()
    nn.utils.parametrizations.spectral_norm(network[3])
    u = network[3].parametrizations.weight[0]._u
    before = u.clone()
    OPT(network).summary()
    assert torch.equal(u, before)
    assert network[3].parametrizations.weight[0].training


def test_a_network_that_keeps_a_part_of_the_graph_is_merged() -> None:
    class Keeps(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            self.kept = super().forward(x)
            return self.kept

    opt, x = OPT(Keeps(*two_layers())), torch.ones(4, 8)
    opt(x).sum().backward()
    plain = merge(opt)
    assert torch.equal(plain.kept, opt.network.kept)
    assert torch.equal(plain(x), opt(x))


def test_a_traced_graph_is_pickled() -> None:
    opt, x = OPT(torch.fx.symbolic_trace(two_layers())), torch.ones(4, 8)
    assert torch.equal(pickle.loads(pickle.dumps(opt))(x), opt(x))


def test_what_is_no_opt_or_no_network_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    opt = OPT(two_layers())
    for other in (nn.Sequential(opt), torch.optim.swa_utils.AveragedModel(opt), two_layers()):
        with pytest.raises(UserError, match="merge takes an OPT, not "):
            merge(other)
    for other in ("resnet", nn.Linear, None):
        with pytest.raises(UserError, match=r"OPT takes a torch\.nn\.Module, not "):
            OPT(other)
    # It would go to a device, also to a simulated one of another test.
    module = sys.modules[nn.DataParallel.__module__]
    monkeypatch.setattr(module, "_get_available_device_type", lambda: None)
    with pytest.raises(UserError, match="DataParallel inside of OPT"):
        OPT(nn.DataParallel(two_layers()))


def test_a_step_before_the_first_gradient_is_no_fault() -> None:
    opt = OPT(two_layers())
    opt.optimizer(lr=0.1).step()
    step(opt, torch.ones(4, 8))


def test_an_optimizer_of_r_alone_on_the_network_itself_is_an_error() -> None:
    opt = OPT(two_layers())
    optimizer = torch.optim.SGD(opt.stacks.parameters(), lr=0.1)
    opt.network(torch.ones(4, 8)).sum().backward()
    with pytest.raises(UserError, match="no R has a gradient"):
        optimizer.step()


def test_a_network_may_have_names_of_ours() -> None:
    network = two_layers()
    network._shared = nn.Identity()
    opt = OPT(network)
    opt.load_state_dict(opt.state_dict())
    assert isinstance(opt.network._shared, nn.Identity)


def test_an_optimizer_of_the_networks_own_is_explained() -> None:
    class WithOptimizer(nn.Sequential):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    with pytest.raises(UserError, match=r"configure_optimizers makes .* use opt\.optimizer"):
        OPT(WithOptimizer(*two_layers())).configure_optimizers()


@pytest.mark.parametrize(
    "types", [(torch.bfloat16, torch.float16), (torch.float16, torch.bfloat16)]
)
def test_autocast_in_the_other_half_precision(types: tuple[torch.dtype, torch.dtype]) -> None:
    opt = OPT(two_layers().to(types[0]))
    with torch.autocast("cpu", types[1]):
        assert opt(torch.ones(4, 8, dtype=types[0])).isfinite().all()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_default_device_is_not_where_methods_draw(method: str) -> None:
    """As torch.set_default_device("cuda") is for a network on the CPU, whose generator is there."""
    network = two_layers()
    with torch.device("meta"):
        opt = OPT(network, method, weights="gaussian" if method != "orthogonal_init" else "given")
        if method in {"cayley", "sopt", "parametrization"}:
            OPT(two_layers(), method)
    assert opt(torch.ones(4, 8)).isfinite().all()


def test_a_lazy_norm_has_no_size_yet() -> None:
    opt = OPT(nn.Sequential(nn.Linear(8, 8), nn.LazyBatchNorm1d(), nn.Linear(8, 3)))
    (lazy,) = (line for line in str(opt.summary()).splitlines() if "biases, norms" in line)
    assert lazy.split()[0] == "4"
    assert opt(torch.ones(4, 8)).shape == (4, 3)
