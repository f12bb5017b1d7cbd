"""Muon and Lion step as published, and every optimizer trains every kind of method."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opt_runner import OPT
from opt_runner.choice import Rule
from opt_runner.methods import METHODS
from opt_runner.optimizers import SGD, SOAP, AdamW, Joint, Lion, Muon
from opt_runner.optimizers.choices import polar_factor
from tests.small import small_cnn

OPTIMIZERS = [SGD, AdamW, Muon, Lion, SOAP]
KINDS = [
    "standard",
    "cayley",
    "frame",
    "ogd",
    "landing",
    "sopt",
    "poet",
    "oft",
    "pion",
    "hyperball",
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(kind: type[torch.optim.Optimizer], opt: OPT, **options: Any) -> torch.optim.Optimizer:
    settings = {"lr": 0.01, "weight_decay": 0.01}
    return opt.optimizer(
        **settings,
        **options,
        make=lambda groups: kind(groups, **settings),  # type: ignore[call-arg]
    )


def steps(opt: OPT, optimizer: torch.optim.Optimizer, numbers: range) -> list[float]:
    losses = []
    for number in numbers:
        torch.manual_seed(number)
        loss = nn.functional.cross_entropy(
            opt(random(8, 3, 8, 8, seed=number)), torch.arange(8) % 5
        )
        optimizer.zero_grad()
        (loss + opt.penalty()).backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has no Muon yet")
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_muon_of_a_matrix_is_torchs(shape: tuple[int, int], nesterov: bool) -> None:
    p = nn.Parameter(random(*shape))
    q = nn.Parameter(p.detach().clone())
    ours = Muon([{"params": [p], "matrices": True}], 0.1, 0.1, nesterov=nesterov)
    theirs = torch.optim.Muon([q], 0.1, 0.1, nesterov=nesterov, adjust_lr_fn="match_rms_adamw")
    for seed in range(4):
        p.grad = random(*shape, seed=seed)
        q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(p, q, rtol=0, atol=5e-3)  # of steps of 0.3, in bfloat16


def test_muon_takes_kernels_as_matrices_and_stacks_one_by_one() -> None:
    kernel, stack = random(4, 3, 2, 2, seed=1), random(3, 5, 4, seed=2)
    p, r = nn.Parameter(torch.zeros(4, 3, 2, 2)), nn.Parameter(torch.zeros(3, 5, 4))
    optimizer = Muon(
        [
            {"params": [p], "matrices": True, "weight_decay": 0.0},
            {"params": [r], "matrices": True, "stacked": True},
        ],
        0.1, 0.0, momentum=0.0, nesterov=False,
    )  # fmt: skip
    p.grad, r.grad = kernel, stack
    optimizer.step()
    scale = 0.1 * 0.2
    wanted = -scale * 12**0.5 * polar_factor(kernel.flatten(1)).float()
    torch.testing.assert_close(p.detach().flatten(1), wanted)
    for one, of_one in zip(r, stack, strict=True):
        torch.testing.assert_close(one, -scale * 5**0.5 * polar_factor(of_one).float())


@pytest.mark.parametrize("kind", [Muon, SOAP])
@pytest.mark.parametrize("method", ["cayley", "oft", "boft", "poet", "hra", "givens"])
def test_r_is_a_matrix_also_in_blocks(kind: type[torch.optim.Optimizer], method: str) -> None:
    opt = OPT(nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 2)), method)
    joint = opt.optimizer(lr=0.1, make=lambda groups: kind(groups, 0.1, 0.0))
    by_adamw = {
        id(p)
        for part in joint.optimizers
        if isinstance(part, AdamW)
        for group in part.param_groups
        for p in group["params"]
    }
    assert all((id(p) in by_adamw) == (method == "givens") for p in opt.stacks.parameters())
    opt(torch.randn(5, 64)).square().mean().backward()
    joint.step()


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (2, 6, 6)])
def test_the_polar_factor_is_near(shape: tuple[int, ...]) -> None:
    values = torch.linalg.svdvals(polar_factor(random(*shape)).float())
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_soap_by_the_published_steps() -> None:
    """Written out for one matrix in float64, with eigenvectors of A and B by numpy."""
    shape, lr, beta, eps = (3, 5), 0.1, 0.9, 1e-8
    p = nn.Parameter(random(*shape).double())
    optimizer = SOAP([{"params": [p], "matrices": True}], lr, 0.5, (beta, beta), every=2)
    x, gradients = p.detach().clone(), [random(*shape, seed=n).double() for n in range(6)]
    A, B = torch.zeros(3, 3).double(), torch.zeros(5, 5).double()
    m = v = torch.zeros(shape).double()
    for number, g in enumerate(gradients):
        p.grad = g.clone()
        optimizer.step()
        if number == 0:
            A, B = 0.1 * g @ g.T, 0.1 * g.T @ g
            P, Q = (torch.linalg.eigh(M.float()).eigenvectors.flip(-1).double() for M in (A, B))
        else:
            m, v = beta * m + 0.1 * g, beta * v + 0.1 * (P.T @ g @ Q) ** 2
            corrected = [part / (1 - beta**number) for part in (P.T @ m @ Q, v)]
            x = (1 - lr * 0.5) * x - lr * P @ (corrected[0] / (corrected[1].sqrt() + eps)) @ Q.T
            A, B = beta * A + 0.1 * g @ g.T, beta * B + 0.1 * g.T @ g
        torch.testing.assert_close(p.detach(), x)
        if number and number % 2 == 0:
            left = torch.diagonal(P.T @ A @ P).argsort(descending=True)
            right = torch.diagonal(Q.T @ B @ Q).argsort(descending=True)
            v, P, Q = v[left][:, right], P[:, left], Q[:, right]
            P, Q = (torch.linalg.qr((M @ b).float()).Q.double() for M, b in ((A, P), (B, Q)))


def test_soap_leaves_a_long_side_and_treats_a_stack_one_by_one() -> None:
    stack = random(2, 4, 6).double()
    r = nn.Parameter(stack.clone())
    ones = [nn.Parameter(one.clone()) for one in stack]
    together = SOAP([{"params": [r], "matrices": True, "stacked": True}], 0.1, 0.0, longest=5)
    apart = SOAP([{"params": ones, "matrices": True}], 0.1, 0.0, longest=5)
    for seed in range(1, 4):
        r.grad = random(2, 4, 6, seed=seed).double()
        for one, g in zip(ones, r.grad, strict=True):
            one.grad = g.clone()
        together.step()
        apart.step()
    torch.testing.assert_close(r.detach(), torch.stack(ones).detach())
    assert together.state[r]["right"].numel() == 0
    assert not torch.equal(r.detach(), stack)


def test_lion_by_hand() -> None:
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = Lion([{"params": [p]}], lr=0.1, weight_decay=0.5, betas=(0.9, 0.5))
    p.grad = torch.tensor([2.0, -4.0])
    optimizer.step()  # p 0.95 and -1.9, then the sign of 0.1 g
    torch.testing.assert_close(p.detach(), torch.tensor([0.85, -1.8]))
    p.grad = torch.tensor([-1.0, -1.0])  # m = 1, -2: 0.9 m + 0.1 g = 0.8, -1.9
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([0.85 * 0.95 - 0.1, -1.8 * 0.95 + 0.1]))


@pytest.mark.parametrize(("kind", "name"), [*itertools.product(OPTIMIZERS, KINDS)])
def test_every_kind_of_method_trains_and_resumes_to_the_bit(
    kind: type[torch.optim.Optimizer], name: str
) -> None:
    options = {"round_steps": 3} if name in ("sopt", "poet") else {}
    opt = OPT(small_cnn(), METHODS[name](**options))
    optimizer = made(kind, opt)
    before = {key: V.detach().clone() for key, V in opt.effective_weights().items()}
    losses = steps(opt, optimizer, range(4))
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    for key, weight in opt.effective_weights().items():
        assert not torch.equal(weight, before[key])
    error = opt.orthogonality_error()
    assert error is None or error < 0.5 if name == "landing" else error is None or error < 1e-4

    other = OPT(small_cnn(), METHODS[name](**options))
    again = made(kind, other)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    other.steps = opt.steps
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert steps(other, again, range(4, 8)) == steps(opt, optimizer, range(4, 8))


def test_methods_with_optimizers_of_their_own_share_a_network() -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return small_cnn()

    rules = [Rule(METHODS["ogd"](), max_d=30), Rule(METHODS["frame"]())]
    opt = OPT(network(), rules)
    assert len(opt.stacks) > 1
    optimizer = opt.optimizer(0.05)
    assert isinstance(optimizer, Joint)
    losses = steps(opt, optimizer, range(3))
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    error = opt.orthogonality_error()
    assert error is not None
    assert error < 1e-4


def test_joint_is_one_optimizer() -> None:
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    inner = Joint([AdamW([{"params": [p]}], 0.1, 0.0)])
    joint = Joint([inner, SGD([{"params": [q]}], 0.1, 0.0)])
    made_steps = []
    joint.register_step_post_hook(lambda *_: made_steps.append(1))
    scheduler = torch.optim.lr_scheduler.StepLR(joint, 1, 0.5)

    def closure() -> Tensor:
        joint.zero_grad()
        loss = (p**2 + q**2).sum()
        loss.backward()
        return loss

    assert joint.step(closure).item() == 4
    scheduler.step()
    assert made_steps == [1]
    assert [group["lr"] for group in inner.param_groups] == [0.05]
    saved = copy.deepcopy(joint.state_dict())
    joint.step(closure)
    ahead = [p.detach().clone(), q.detach().clone()]
    joint.load_state_dict(saved)
    assert inner.state is joint.state
    assert inner.optimizers[0].param_groups[0] is joint.param_groups[0]
    assert joint.state[p]["step"] == 1
    joint.step(closure)
    assert not torch.equal(p, ahead[0])
