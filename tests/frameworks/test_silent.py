"""What would pass without a word: each case trains, or ends in one clear line."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from opt_runner import OPT, merge
from opt_runner.errors import UserError
from opt_runner.methods import METHODS

TRAINS_W = {name for name, cls in METHODS.items() if not cls().changes_weight}
OWN_OPTIMIZER = [name for name in METHODS if METHODS[name].optimizer_class is not torch.optim.SGD]


class Residual(nn.Module):
    """A branch whose last layer starts at zero, as many residual branches do."""

    def __init__(self, scale: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.back = nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)
        nn.init.normal_(self.back.weight, std=1)
        with torch.no_grad():
            self.back.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.back(torch.relu(self.inner(x))))


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def step(opt: OPT, optimizer: torch.optim.Optimizer, network: Any = None) -> None:
    """Make a step on the output of OPT, or of another network."""
    optimizer.zero_grad()
    (network or opt)(X).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("scale", [0.0, 1e-6])
@pytest.mark.parametrize("method", sorted(set(METHODS) - TRAINS_W))
def test_a_layer_that_is_zero_trains_plainly_and_is_named(method: str, scale: float) -> None:
    network = Residual(scale)
    with pytest.warns(UserWarning, match="^back: trained plainly, as W is zero at the start"):
        opt = OPT(network, method)
    assert opt.layers == ["inner"]
    assert {row.layer: row.note for row in opt.summary().rows}["back"] == "zero at the start"
    before = network.back.weight.detach().clone()
    optimizer = opt.optimizer(lr=0.1)
    for _ in range(2):
        step(opt, optimizer)
    assert (network.back.weight - before).norm() > 1e-3
    torch.testing.assert_close(merge(opt)(X), opt(X))


@pytest.mark.parametrize("method", ["cayley", "frame"])
def test_a_zero_layer_that_is_named_is_an_error(method: str) -> None:
    with pytest.raises(UserError, match="layer 'back' cannot be covered: W is zero"):
        OPT(Residual(), method, include=["inner", "back"])
    with pytest.warns(UserWarning, match="back: trained plainly"):
        assert OPT(Residual(), method, include=["*"]).layers == ["inner", "head"]


def test_methods_that_train_w_cover_zero_layers() -> None:
    assert OPT(Residual(), "standard").layers == ["inner", "back"]
    assert OPT(Residual(), "cayley", train_w=True).layers == ["inner", "back"]


@pytest.mark.parametrize("method", ["cayley", "frame", "sopt", "or"])
def test_a_step_on_the_network_alone_is_an_error(method: str) -> None:
    opt = OPT(Residual(1), method)
    with pytest.raises(UserError, match="no R has a gradient: the loss does not come from opt"):
        step(opt, opt.optimizer(lr=0.1), network=opt.network)


def test_an_optimizer_over_the_network_alone_is_named() -> None:
    opt = OPT(Residual(1))
    optimizer = torch.optim.AdamW(opt.network.parameters())
    step(opt, optimizer)
    with pytest.warns(UserWarning, match="no optimizer has an R among its parameters"):
        step(opt, optimizer)


@pytest.mark.parametrize("method", ["cayley", "frame", "poet"])
def test_the_network_itself_computes_with_v_in_the_context(method: str) -> None:
    opt = OPT(Residual(1), method)
    optimizer = opt.optimizer(lr=0.1)
    step(opt, optimizer)
    inside = {name: W.clone() for name, W in opt.network.named_parameters()}
    opt.zero_grad()
    opt(X).square().sum().backward()
    wanted = [p.grad.clone() for p in opt.stacks.parameters()]
    opt.zero_grad()
    with opt.effective() as network:
        output = network(X)
        torch.testing.assert_close(output, opt(X))
        output.square().sum().backward()
    for p, gradient in zip(opt.stacks.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient)
    assert all(torch.equal(W, inside[name]) for name, W in opt.network.named_parameters())


@pytest.mark.parametrize("method", OWN_OPTIMIZER)
def test_an_optimizer_that_would_leave_the_rotations_is_an_error(method: str) -> None:
    opt = OPT(Residual(1), method)
    before = {name: V.clone() for name, V in opt.neurons().items()}
    with pytest.raises(UserError, match=r"needs \w+, which opt.optimizer\(...\) makes: AdamW"):
        step(opt, torch.optim.AdamW(opt.parameters()))
    assert all(torch.equal(V, before[name]) for name, V in opt.neurons().items())


@pytest.mark.parametrize(
    ("method", "options"), [("sopt", {}), ("poet", {}), ("oft", {"constrained": True})]
)
def test_a_method_that_counts_steps_needs_its_optimizer_attached(
    method: str, options: dict[str, Any]
) -> None:
    opt = OPT(Residual(1), method, **options)
    optimizer = torch.optim.AdamW(opt.parameters())
    with pytest.raises(UserError, match=r"call opt.attach\(optimizer\) before the first"):
        step(opt, optimizer)
    opt.attach(optimizer)
    step(opt, optimizer)
    assert opt.steps == 1


class SAM(torch.optim.Optimizer):
    """As its users write it: a climb, then a step of the optimizer inside, both called by hand."""

    def __init__(self, params: Any, base: type[torch.optim.Optimizer], **options: Any) -> None:
        super().__init__(params, options)
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p]["climb"] = 0.01 * p.grad
                    p.add_(self.state[p]["climb"])
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(self.state[p]["climb"])
        self.base_optimizer.step()

    def step(self, closure: Any = None) -> None:
        self.first_step()
        torch.enable_grad()(closure)()
        self.second_step()


@pytest.mark.parametrize("by_hand", [True, False])
def test_an_optimizer_around_another_counts_each_step_once(by_hand: bool) -> None:
    opt = OPT(Residual(1), "sopt", round_steps=3)
    optimizer = SAM(opt.parameters(), torch.optim.AdamW, lr=0.01)
    opt.attach(optimizer)

    def loss() -> None:
        optimizer.zero_grad()
        opt(X).square().sum().backward()

    for number in range(1, 4):
        loss()
        if by_hand:
            optimizer.first_step()
            loss()
            optimizer.second_step()
        else:
            optimizer.step(loss)
        assert opt.steps == number
    whole, part = (stack.trained["R"] for stack in opt.stacks)
    assert part.equal(torch.eye(part.shape[-1]).expand_as(part))  # a round has ended
    states = optimizer.base_optimizer.state
    assert states[part]["exp_avg"].abs().max() == 0
    assert states[whole]["exp_avg"].abs().max() > 0


def test_lookahead_of_timm_is_attached() -> None:
    optim = pytest.importorskip("timm.optim")
    opt = OPT(Residual(1), "sopt")
    optimizer = optim.Lookahead(torch.optim.AdamW(opt.parameters()), k=2)
    opt.attach(optimizer)
    for number in (1, 2, 3):
        step(opt, optimizer)
        assert opt.steps == number


def test_a_distributed_checkpoint_is_loaded_without_a_step() -> None:
    """torch makes one at zero rates to have a state to load into."""
    api = pytest.importorskip("torch.distributed.checkpoint.state_dict")

    def made() -> tuple[OPT, torch.optim.Optimizer]:
        torch.manual_seed(0)
        opt = OPT(Residual(1), "poet", round_steps=5)
        optimizer = torch.optim.AdamW(opt.parameters(), lr=0.01)
        opt.attach(optimizer)
        return opt, optimizer

    opt, optimizer = made()
    for _ in range(4):
        step(opt, optimizer)
    network, state = copy.deepcopy(api.get_state_dict(opt, optimizer))
    torch.manual_seed(1)
    other, another = made()
    api.set_model_state_dict(other, network)
    api.set_optimizer_state_dict(other, another, state)
    assert other.steps == 4
    for _ in range(3):
        step(opt, optimizer)
        step(other, another)
    assert all(torch.equal(p, q) for p, q in zip(opt.parameters(), other.parameters(), strict=True))


def test_a_step_that_a_fused_optimizer_skips_is_none() -> None:
    opt = OPT(Residual(1), "sopt")
    optimizer = torch.optim.AdamW(opt.parameters(), fused=True)
    opt.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu")
    for factor, steps in [(1.0, 1), (float("inf"), 1), (1.0, 2)]:
        optimizer.zero_grad()
        scaler.scale(factor * opt(X).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert opt.steps == steps


def test_a_warm_up_from_zero_counts_its_steps() -> None:
    opt = OPT(Residual(1), "sopt")
    optimizer = torch.optim.AdamW(opt.parameters(), lr=0.0)
    opt.attach(optimizer)
    step(opt, optimizer)
    assert opt.steps == 1


def test_another_network_may_be_stepped_beside_opt() -> None:
    opt, other = OPT(Residual(1), "frame"), Residual(1)
    for optimizer in (torch.optim.AdamW(other.parameters()), opt.optimizer(lr=0.1)):
        other(opt(X) @ torch.ones(3, 6)).sum().backward()
        optimizer.step()
    assert opt.steps == 1


@pytest.mark.parametrize("method", sorted(METHODS))
def test_values_that_to_empty_left_out_are_missed(method: str) -> None:
    with torch.device("meta"):
        network = Residual(1)
    opt = OPT(network, method).to_empty(device="cpu")
    if opt.stacks and opt.stacks[0].trained:
        with pytest.raises(UserError, match=r"R has no values since to_empty: call opt.reset_par"):
            opt(X)
    opt.reset_parameters()
    assert opt(X).isfinite().all()
    step(opt, opt.optimizer(lr=0.1))
    assert opt(X).isfinite().all()


def test_a_loaded_state_fills_what_to_empty_left() -> None:
    with torch.device("meta"):
        empty = OPT(Residual(1), "sopt")
    empty.to_empty(device="cpu")
    full = OPT(Residual(1), "sopt")
    step(full, full.optimizer(lr=0.1))
    empty.load_state_dict(full.state_dict())
    assert torch.equal(empty(X), full(X))


def test_an_optimizer_whose_parameters_were_replaced_is_an_error() -> None:
    opt = OPT(Residual(1))
    optimizer = opt.optimizer(lr=0.1)
    opt.load_state_dict({k: v.clone() for k, v in opt.state_dict().items()}, assign=True)
    with pytest.raises(UserError, match="steps none of OPT's parameters: they were replaced"):
        step(opt, optimizer)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_weights_are_refused_by_name(dtype: torch.dtype) -> None:
    network = nn.Sequential(nn.Linear(4, 4, dtype=dtype), nn.Linear(4, 2, dtype=dtype))
    with pytest.raises(UserError, match=r"layer '0' cannot be covered: its weight is complex"):
        OPT(network)


class MaskedConv2d(nn.Conv2d):
    """As in PixelCNN: it writes to its weight."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data[:, :, -1] = 0
        return super().forward(x)


class StandardisedConv2d(nn.Conv2d):
    """It convolves with another kernel than its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), True), self.bias)


def convolutions(kind: type[nn.Conv2d]) -> nn.Module:
    return nn.Sequential(kind(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3))


@pytest.mark.parametrize("method", ["cayley", "frame", "sopt", "standard"])
def test_a_layer_that_writes_to_its_weight_is_refused(method: str) -> None:
    opt = OPT(convolutions(MaskedConv2d), method)
    x = torch.randn(2, 3, 6, 6)
    if method == "standard":  # it trains W itself, as the layer's author had it
        assert opt(x).isfinite().all()
        return
    with pytest.raises(UserError, match=r"writes to its weights .* exclude=\['0'\]"):
        opt(x)


def test_layers_with_a_forward_of_their_own_are_named() -> None:
    rows = OPT(convolutions(StandardisedConv2d)).summary().rows
    assert rows[0].note == "own forward"
    assert OPT(convolutions(nn.Conv2d)).summary().rows[0].note == ""


@dataclass
class Found:
    """An output as detectors and language models have it."""

    scores: dict[str, list[Tensor]]


class Checkpointed(nn.Module):
    """Its activations are computed again in the backward pass."""

    def __init__(self, deep: bool) -> None:
        super().__init__()
        self.one = nn.Linear(6, 6)
        self.two = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)
        self.deep = deep

    def forward(self, x: Tensor) -> Any:
        hidden = checkpoint(lambda x: torch.tanh(self.two(torch.tanh(self.one(x)))), x,
                            use_reentrant=False) if self.deep else torch.tanh(
                                self.two(torch.tanh(self.one(x))))  # fmt: skip
        scores = self.head(hidden)
        return Found({"all": [scores]}) if self.deep else scores


@pytest.mark.parametrize("train_w", [True, False])
def test_gradients_reach_r_through_outputs_in_objects(train_w: bool) -> None:
    torch.manual_seed(0)
    opt = OPT(Checkpointed(False), "cayley", train_w=train_w, start="normal")
    twin = OPT(Checkpointed(True), "cayley", train_w=train_w, start="normal")
    twin.load_state_dict(opt.state_dict())
    opt(X).square().sum().backward()
    twin(X).scores["all"][0].square().sum().backward()
    for p, q in zip(opt.parameters(), twin.parameters(), strict=True):
        if p.requires_grad:
            torch.testing.assert_close(q.grad, p.grad)


@pytest.mark.parametrize("method", METHODS)
def test_training_goes_on_in_float64(method: str) -> None:
    torch.manual_seed(0)
    opt = OPT(Residual(1.0), method)
    optimizer = opt.optimizer(lr=0.01)
    step(opt, optimizer)
    opt.double()
    torch.autograd.backward(opt(X.double()).square().mean() + opt.penalty())
    optimizer.step()
    assert merge(opt).inner.weight.dtype == torch.float64


def test_a_scripted_network_is_refused() -> None:
    with pytest.raises(UserError, match="OPT takes no scripted network"):
        OPT(torch.jit.script(Residual(1.0)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_refused_and_takes_the_merged_network() -> None:
    opt, x = (
        OPT(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), "cayley"),
        torch.ones(3, 4),
    )
    for network in (opt, nn.Sequential(opt)):
        with pytest.raises(UserError, match=r"script or trace merge\(opt\)"):
            torch.jit.script(network)
        with pytest.raises(UserError, match=r"script or trace merge\(opt\)"):
            torch.jit.trace(network, x)
    assert torch.equal(torch.jit.trace(merge(opt), x)(x), opt(x))
