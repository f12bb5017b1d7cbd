"""OPT as any module: types, autocast, accumulation, checkpointing, EMA, compile, DDP, FSDP."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from opt_runner import OPT, merge
from opt_runner.errors import UserError
from opt_runner.methods import METHODS
from tests.networks_of_users import NETWORKS
from tests.small import small_cnn, train

ROTATING = [name for name in METHODS if name != "standard"]
every_method = pytest.mark.parametrize("method", METHODS)


def mlp() -> nn.Sequential:
    """Without BatchNorm: a batch is the sum of its parts."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 10)]
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(10, 3))


def gradients(opt: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in opt.named_parameters() if p.grad is not None}


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_network_in_half_precision(method: str, dtype: torch.dtype, when: str) -> None:
    opt = OPT(mlp().to(dtype), method) if when == "before" else OPT(mlp(), method).to(dtype)
    assert {p.dtype for p in opt.network.parameters()} == {dtype}
    assert {t.dtype for s in opt.stacks for t in s.trained.values()} <= {torch.float32}
    assert all(V.dtype == dtype for V in opt.effective_weights().values())
    optimizer = opt.optimizer(lr=0.01)
    x = torch.randn(16, 6, dtype=dtype)
    losses = []
    for _ in range(4):
        loss = opt(x).float().square().mean()
        optimizer.zero_grad()
        (loss + opt.penalty()).backward()
        optimizer.step()
        losses.append(loss.item())
    if not opt.method.has_penalty:  # a penalty may be most of what these steps lower
        assert losses[-1] < losses[0]
    # `or` and `upt` are not exact; `ogd` and `frame` started from a W that had not been rounded.
    loose = ("or", "upt") if when == "before" else ("or", "upt", "ogd", "frame", "landing", "pogo")
    if method not in loose:
        assert (opt.orthogonality_error() or 0) < 1e-5
    torch.testing.assert_close(merge(opt)(x), opt(x))


def test_types_go_there_and_back() -> None:
    opt = OPT(mlp(), "cayley")
    R = opt.stacks[0].trained["R"].detach().clone()
    opt.half()
    assert torch.equal(opt.stacks[0].trained["R"], R), "R has lost no digit"
    assert opt.double().stacks[0].trained["R"].dtype == torch.float64
    assert opt(torch.randn(2, 6, dtype=torch.float64)).dtype == torch.float64
    assert torch.equal(opt.float().stacks[0].trained["R"], R)


@every_method
def test_autocast(method: str) -> None:
    opt = OPT(mlp(), method)
    with torch.autocast("cpu", torch.bfloat16):
        y = opt(torch.randn(4, 6))
        loss = y.float().square().mean() + opt.penalty()
    assert y.dtype == torch.bfloat16
    loss.backward()
    assert all(t.grad.dtype == torch.float32 for s in opt.stacks for t in s.trained.values())


@every_method
def test_gradients_accumulate(method: str) -> None:
    whole, parts = OPT(mlp(), method), OPT(mlp(), method)
    parts.load_state_dict(whole.state_dict())
    x = torch.randn(8, 6)
    torch.manual_seed(2)
    (whole(x).square().sum() + whole.penalty()).backward()
    for part in x.chunk(4):
        torch.manual_seed(2)  # some penalties draw
        (parts(part).square().sum() + parts.penalty() / 4).backward()
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(parts)[name], gradient, rtol=1e-3, atol=1e-5)


def test_gradients_are_clipped() -> None:
    opt = OPT(mlp(), "cayley")
    optimizer = opt.optimizer(lr=0.1, momentum=0, weight_decay=0)
    before = torch.nn.utils.parameters_to_vector(opt.parameters()).detach()
    opt(100 * torch.randn(8, 6)).square().sum().backward()
    assert torch.nn.utils.clip_grad_norm_(opt.parameters(), 0.5) > 1
    optimizer.step()
    after = torch.nn.utils.parameters_to_vector(opt.parameters()).detach()
    assert (after - before).norm().item() == pytest.approx(0.1 * 0.5, rel=1e-3)


@dataclass
class Output:
    """As networks give it whose output is more than a tensor."""

    logits: Tensor


class Checkpointed(nn.Module):
    """Blocks whose activations are computed again in the backward pass."""

    def __init__(self, reentrant: bool | None = False, wrapped: bool = False) -> None:
        super().__init__()
        self.blocks = mlp()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(3, 2)
        self.reentrant = reentrant
        self.wrapped = wrapped

    def _attend(self, x: Tensor) -> Tensor:
        return self.attention(x[None], x[None], x[None])[0][0]

    def forward(self, x: Tensor) -> Any:
        if self.reentrant is None:
            y = self.blocks(self._attend(x))
        else:
            x = checkpoint(self._attend, x, use_reentrant=self.reentrant)
            y = checkpoint(self.blocks, x, use_reentrant=self.reentrant)
        logits = self.head(y)
        return Output(logits) if self.wrapped else logits


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("method", ROTATING)
def test_checkpointing_of_activations_changes_no_gradient(method: str, wrapped: bool) -> None:
    plain = OPT(Checkpointed(reentrant=None), method)
    opt = OPT(Checkpointed(wrapped=wrapped), method)
    opt.load_state_dict(plain.state_dict())
    x = torch.randn(5, 6)
    torch.manual_seed(2)  # some penalties draw
    (plain(x).square().sum() + plain.penalty()).backward()
    W = {name: id(p) for name, p in opt.network.named_parameters()}
    for _ in range(2):  # the second time through the same graph
        opt.zero_grad()
        torch.manual_seed(2)
        y = opt(x)
        loss = (y.logits if wrapped else y).square().sum() + opt.penalty()
        loss.backward(retain_graph=True)
        for name, gradient in gradients(plain).items():
            assert torch.equal(gradients(opt)[name], gradient), name
    opt.zero_grad()
    loss.backward()
    for name, gradient in gradients(plain).items():
        assert torch.equal(gradients(opt)[name], gradient), name
    assert {name: id(p) for name, p in opt.network.named_parameters()} == W


@pytest.mark.parametrize("batch", [6, 5])  # d, at which wrong tensors would fit, and another
def test_checkpointing_with_a_fixed_r_changes_no_gradient(batch: int) -> None:
    plain, opt = OPT(Checkpointed(reentrant=None), "cayley"), OPT(Checkpointed(), "cayley")
    opt.load_state_dict(plain.state_dict())
    x = torch.randn(batch, 6)
    for one in (plain, opt):
        one.stacks.requires_grad_(False)
        y = one(x).square().sum()
        y.backward(retain_graph=True)
        y.backward()
    for name, gradient in gradients(plain).items():
        assert torch.equal(gradients(opt)[name], gradient), name


class Adjoint(torch.autograd.Function):
    """Computes a module once more in the backward pass, as odeint_adjoint of torchdiffeq does."""

    @staticmethod
    def forward(ctx, module, x, *parameters):
        ctx.module = module
        ctx.save_for_backward(x, *parameters)
        with torch.no_grad():
            return module(x)

    @staticmethod
    def backward(ctx, g):
        x, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            asked = (x, *parameters)
            found = torch.autograd.grad(ctx.module(x), asked, g, allow_unused=True)
        return None, *found


@pytest.mark.parametrize("method", ["cayley", "frame", "sopt"])
def test_an_adjoint_method_reaches_r(method: str) -> None:
    class Solved(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](Adjoint.apply(self[0], x, *self[0].parameters()))

    def made() -> OPT:
        torch.manual_seed(3)
        return OPT(Solved(mlp(), nn.Linear(3, 2)), method)

    opt, plain = made(), made()
    x = torch.randn(5, 6)
    opt(x).square().sum().backward()
    with plain.effective() as network:
        network[1](network[0](x)).square().sum().backward()
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(opt)[name], gradient, msg=name)


def test_checkpointing_that_would_lose_gradients_is_refused() -> None:
    opt = OPT(Checkpointed(reentrant=True), "cayley")
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        opt(torch.randn(5, 6, requires_grad=True)).sum().backward()


def test_a_backward_pass_that_fails_leaves_the_network_as_it_was() -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            raise MemoryError("of a test")

    class Network(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(Fails.apply(x))

    opt = OPT(Network(*mlp()), "cayley")
    parameters = dict(opt.network.named_parameters())
    with pytest.raises(MemoryError, match="of a test"):
        opt(torch.randn(3, 6, requires_grad=True)).sum().backward()
    assert all(p is parameters[name] for name, p in opt.network.named_parameters())


@pytest.mark.parametrize("method", ["standard", "gs", "hr", "ls", "cayley"])
def test_an_average_of_opt(method: str) -> None:
    """R is free in these: the average of R makes a Q as well."""
    opt = OPT(small_cnn(), method)
    average = AveragedModel(opt)
    train(opt, steps=2)
    average.update_parameters(opt)
    assert (average.module.orthogonality_error() or 0) < 1e-5
    for mine, theirs in zip(average.module.parameters(), opt.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@every_method
def test_an_average_of_merged_networks(method: str) -> None:
    opt = OPT(small_cnn(), method)
    average = AveragedModel(merge(opt))
    first = merge(opt)
    average.update_parameters(first)
    train(opt, steps=2)
    average.update_parameters(merge(opt))
    expected = (first.fc.weight + merge(opt).fc.weight) / 2
    torch.testing.assert_close(average.module.fc.weight, expected)


@pytest.mark.parametrize("method", ["gs", "sopt"])
def test_compiles_without_a_break(method: str) -> None:
    torch.compiler.reset()
    opt, twin = OPT(mlp(), method), OPT(mlp(), method)
    twin.load_state_dict(opt.state_dict())
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    x = torch.randn(4, 6)
    opt(x).square().sum().backward()
    compiled(x).square().sum().backward()
    for name, gradient in gradients(opt).items():
        torch.testing.assert_close(gradients(twin)[name], gradient)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_merged_network_is_exported(name: str) -> None:
    make, x, options = NETWORKS[name]
    opt = OPT(make(), "cayley", **options).eval()
    exported = torch.export.export(merge(opt).eval(), (x,)).module()
    torch.testing.assert_close(exported(x), opt(x))


def test_any_optimizer() -> None:
    for method in ("gs", "hr", "ls", "cayley", "or", "sopt"):
        options = {"round_steps": 2} if method == "sopt" else {}
        opt = OPT(mlp(), method, **options)
        optimizer = torch.optim.AdamW(opt.parameters(), lr=0.01, weight_decay=0.1)
        opt.attach(optimizer)
        frozen = {n: p.clone() for n, p in opt.named_parameters() if not p.requires_grad}
        x = torch.randn(8, 6)
        losses = []
        for _ in range(5):
            loss = opt(x).square().mean()
            optimizer.zero_grad()
            (loss + opt.penalty()).backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        assert opt.steps == 5
        moved = [n for n, W in frozen.items() if not torch.equal(opt.get_parameter(n), W)]
        assert bool(moved) == (method == "sopt"), "rounds alone write W"


def test_an_optimizer_that_leaves_the_group_is_refused() -> None:
    opt = OPT(mlp(), "ogd")
    with pytest.raises(UserError, match=r"needs RetractionSGD, which opt.optimizer\(...\) makes"):
        opt.attach(torch.optim.Adam(opt.parameters()))


def test_states_of_another_method_or_a_newer_release_are_refused() -> None:
    gs, cayley = OPT(mlp(), "gs"), OPT(mlp(), "cayley")
    with pytest.raises(UserError, match="the state is of GramSchmidt, this is Cayley"):
        cayley.load_state_dict(gs.state_dict())
    state = cayley.state_dict()
    version, _ = state["_extra_state"].tolist()
    cayley.load_state_dict({**state, "_extra_state": torch.tensor([version, 7])})
    assert cayley.steps == 7
    state["_extra_state"] = torch.tensor([99, 0])
    with pytest.raises(UserError, match="of a newer opt-runner"):
        cayley.load_state_dict(state)


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one process: enough for what DDP and FSDP do to a module."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("method", ["cayley", "ogd", "or", "sopt"])
def test_distributed_data_parallel(method: str, alone: None) -> None:
    opt, twin = OPT(mlp(), method), OPT(mlp(), method)
    twin.load_state_dict(opt.state_dict())
    wrapped = nn.parallel.DistributedDataParallel(twin)
    x = torch.randn(4, 6)
    for _ in range(2):
        (opt(x).square().sum() + opt.penalty()).backward()
        (wrapped(x).square().sum() + twin.penalty()).backward()
    for name, gradient in gradients(opt).items():
        torch.testing.assert_close(gradients(twin)[name], gradient)


@pytest.mark.skipif(os.name == "nt", reason="no gloo")
def test_fully_sharded(alone: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    opt, twin = OPT(Checkpointed(), "cayley"), OPT(Checkpointed(), "cayley")
    twin.load_state_dict(opt.state_dict())
    fully_shard(twin, mesh=init_device_mesh("cpu", (1,)))
    sgd = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (opt, twin)]
    x = torch.randn(4, 6)
    for _ in range(2):
        losses = []
        for one, optimizer in zip((opt, twin), sgd, strict=True):
            loss = one(x).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
