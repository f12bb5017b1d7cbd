"""sopt: rounds."""

import pytest
import torch

from opt_runner import OPT
from opt_runner.methods import StochasticOPT
from tests.small import small_cnn, train


def test_sopt_writes_its_rounds_into_w() -> None:
    opt = OPT(small_cnn(), StochasticOPT(round_steps=5, share=0.5))
    first, *others = opt.stacks
    assert "S" not in first.tensors, "the first layer is rotated whole"
    optimizer = opt.optimizer(lr=0.05)
    W = {n: p.detach().clone() for n, p in opt.network.named_parameters() if not p.requires_grad}
    S = others[0].tensors["S"].clone()

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
    assert not torch.equal(others[0].tensors["S"], S)
    for stack in others:
        R = stack.trained["R"]
        k, s, _ = R.shape
        assert torch.equal(R, torch.eye(s).expand(k, s, s))
        assert not optimizer.state[R]["momentum_buffer"].any()
    assert optimizer.state[first.trained["R"]]["momentum_buffer"].any()


@pytest.mark.parametrize("inner", ["gs", "hr", "ls", "cayley"])
def test_a_sopt_round_turns_without_moving_the_network(inner: str) -> None:
    opt = OPT(small_cnn(), "sopt", inner=inner, share=0.5)
    train(opt, steps=3)
    before = opt.neurons()
    for stack in opt.stacks:
        if "S" in stack.tensors:
            stack.merge()
            stack.restart(1)
    for name, V in opt.neurons().items():
        torch.testing.assert_close(V, before[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Rprop", "NAdam", "ASGD"])
def test_each_round_starts_as_the_first(name: str) -> None:
    """Also with optimizers whose state does not start from zero."""
    opt = OPT(small_cnn(), "sopt", round_steps=3)
    kind = getattr(torch.optim, name)
    optimizer = opt.optimizer(lr=0.01, weight_decay=0, make=lambda groups: kind(groups, lr=0.01))
    R = next(stack.trained["R"] for stack in opt.stacks if "S" in stack.tensors)
    moved = []
    for _ in range(6):
        before = R.detach().clone()
        R.grad = torch.ones_like(R)
        optimizer.step()
        moved.append(float((R.detach() - before).norm()))
    # The third and the sixth step end in a new start of R.
    assert moved[3:5] == pytest.approx(moved[:2], rel=1e-3)
    assert min(moved) > 0
