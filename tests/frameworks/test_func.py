"""torch.func through OPT, and torch.optim.Muon beside it."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

from opt_runner import OPT
from opt_runner.errors import UserError
from opt_runner.methods import METHODS
from opt_runner.methods.kernels.fused import FusedRotation
from opt_runner.methods.ls import Lowdin

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
Tensors = dict[str, Tensor]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_transformations_agree_with_backward(method: str) -> None:
    opt = OPT(network(), method)
    optimizer = opt.optimizer(lr=0.1)
    (opt(X).square().sum() + opt.penalty()).backward()
    optimizer.step()  # away from the start
    optimizer.zero_grad()
    trained = {name: p.detach() for name, p in opt.named_parameters() if p.requires_grad}
    directions = {name: torch.randn_like(p) for name, p in trained.items()}

    def output(parameters: Tensors, x: Tensor) -> Tensor:
        return functional_call(opt, {**dict(opt.named_parameters()), **parameters}, (x,))

    def loss(parameters: Tensors, x: Tensor) -> Tensor:
        return output(parameters, x).square().sum()

    opt(X).square().sum().backward()
    wanted = {name: opt.get_parameter(name).grad for name in trained}
    found = grad(loss)(trained, X)
    each = vmap(grad(lambda p, x: loss(p, x[None])), in_dims=(None, 0))(trained, X)
    jacobian = jacrev(output)(trained, X)
    twice = 2 * opt(X).detach()
    for name, gradient in wanted.items():
        close = {"rtol": 1e-4, "atol": 1e-5 * float(gradient.abs().max() + 1)}
        torch.testing.assert_close(found[name], gradient, **close)
        torch.testing.assert_close(each[name].sum(0), gradient, **close)
        contracted = torch.tensordot(twice, jacobian[name], dims=2)
        torch.testing.assert_close(contracted, gradient, **close)
    _, slope = jvp(lambda p: loss(p, X), (trained,), (directions,))
    expected = sum((wanted[name] * directions[name]).sum() for name in trained)
    torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-3)
    pair = {name: torch.stack([p, p]) for name, p in trained.items()}
    torch.testing.assert_close(vmap(lambda p: output(p, X))(pair)[1], opt(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"comhe", "srip"}))  # these draw anew
def test_second_derivatives(method: str) -> None:
    """Hessian times vector is the slope of the gradient, by create_graph and by torch.func."""
    opt = OPT(network(), method).double()
    x = X.double()
    stacks = [p for p in opt.stacks.parameters() if p.requires_grad]
    with torch.no_grad():
        for R in stacks:
            R.add_(torch.randn_like(R), alpha=0.1)
    trained = {name: p for name, p in opt.named_parameters() if p.requires_grad}
    directions = {name: torch.randn_like(p) for name, p in trained.items()}

    def slopes(at: Tensors) -> Tensors:
        moved = {name: p.detach().requires_grad_() for name, p in at.items()}
        loss = functional_call(Loss(opt), {f"opt.{name}": p for name, p in moved.items()}, (x,))
        return dict(zip(moved, torch.autograd.grad(loss, moved.values()), strict=True))

    loss = Loss(opt)(x)
    gradients = torch.autograd.grad(loss, trained.values(), create_graph=True)
    products = [(g * directions[name]).sum() for name, g in zip(trained, gradients, strict=True)]
    found = torch.autograd.grad(sum(products), trained.values())
    h = 1e-5
    ahead = slopes({name: p + h * directions[name] for name, p in trained.items()})
    behind = slopes({name: p - h * directions[name] for name, p in trained.items()})

    def functional(parameters: Tensors) -> Tensor:
        return functional_call(Loss(opt), {f"opt.{n}": p for n, p in parameters.items()}, (x,))

    _, by_func = jvp(grad(functional), (trained,), (directions,))
    for (name, g), product in zip(ahead.items(), found, strict=True):
        numeric = (g - behind[name]) / (2 * h)
        close = {"rtol": 1e-6, "atol": 1e-6 * float(numeric.abs().max() + 1)}
        torch.testing.assert_close(product, numeric, **close)
        torch.testing.assert_close(by_func[name], numeric, **close)


class Loss(nn.Module):
    def __init__(self, opt: OPT) -> None:
        super().__init__()
        self.opt = opt

    def forward(self, x: Tensor) -> Tensor:
        return self.opt(x).square().mean() + self.opt.penalty()


def test_second_derivatives_where_a_stack_is_frozen() -> None:
    opt = OPT(network(), "ls").double()
    frozen, trained = (stack.trained["R"] for stack in opt.stacks)
    frozen.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        loss = Loss(opt)(X.double())
        (g,) = torch.autograd.grad(loss, trained, create_graph=True)
    assert g.dtype == torch.float64
    (again,) = torch.autograd.grad(g.square().sum(), trained)
    assert again.abs().max() > 0


def test_the_penalty_of_or_has_gradient_0_at_the_identity() -> None:
    opt = OPT(network(), "or").double()
    optimum = {"stacks.0.trained.R": torch.eye(6).expand(1, 6, 6).double()}
    found = grad(
        lambda p: functional_call(Penalty(opt), {f"opt.{n}": R for n, R in p.items()}, ())
    )(optimum)
    assert (found["stacks.0.trained.R"] == 0).all()


class Penalty(Loss):
    def forward(self) -> Tensor:
        return self.opt.penalty()


class Own(FusedRotation):
    """A user's, without `plain`."""

    apply = staticmethod(Lowdin.apply)
    gradient = staticmethod(Lowdin.gradient)


def test_a_method_without_a_way_says_so() -> None:
    opt = OPT(network(), Own())
    with pytest.raises(UserError, match=r"Own has a gradient of its own, which has no derivative"):
        grad(lambda p: functional_call(opt, p, (X,)).sum())(dict(opt.named_parameters()))
    with pytest.raises(UserError, match=r"Own has a gradient of its own, which has no derivative"):
        torch.autograd.grad(opt(X).sum(), opt.stacks.parameters(), create_graph=True)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon")
def test_muon_steps_plain_matrices_beside_the_rotations() -> None:
    opt = OPT(network(), include=["0"])
    matrices = [p for p in opt.network.parameters() if p.requires_grad and p.ndim == 2]
    rest = [p for p in opt.parameters() if p.requires_grad and all(p is not m for m in matrices)]
    optimizers = [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(rest, lr=0.02)]
    before = [p.detach().clone() for p in opt.parameters()]
    losses = []
    for _ in range(5):
        loss = opt(X).square().mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    moved = [not torch.equal(p, q) for p, q in zip(opt.parameters(), before, strict=True)]
    assert moved == [p.requires_grad for p in opt.parameters()]
    assert opt.orthogonality_error() < 1e-5
