"""torch.func through OPT, and torch.optim.Muon beside it."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

from opt_runner import OPT
from opt_runner.errors import UserError
from opt_runner.methods import METHODS

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
Tensors = dict[str, Tensor]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"ls"}))
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


def test_a_method_without_a_way_says_so() -> None:
    opt, other = OPT(network(), "ls"), OPT(network(), "or")
    with pytest.raises(UserError, match=r"Lowdin has a gradient of its own, which torch\.func"):
        grad(lambda p: functional_call(opt, p, (X,)).sum())(dict(opt.named_parameters()))
    with pytest.raises(UserError, match="has a gradient of its own"):
        vmap(lambda x: x.sum() * other.penalty())(X)


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
