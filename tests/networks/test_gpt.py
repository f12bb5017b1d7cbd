"""Transformers on tokens: what a token sees, and vectors of length 1."""

import pytest
import torch
from torch import nn

from opt_runner import OPT
from opt_runner.errors import UserError
from opt_runner.networks import GPT
from opt_runner.networks.gpt import UnitLinear, _rotated, _rotation

NORMS = ["pre", "ngpt"]


def small(norm: str = "pre", **options) -> GPT:
    torch.manual_seed(0)
    return GPT(11, 9, width=16, depth=2, heads=2, norm=norm, **options)  # type: ignore[arg-type]


def tokens(count: int = 9) -> torch.Tensor:
    return torch.randint(11, (3, count), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", NORMS)
def test_a_token_sees_only_those_before_it(norm: str) -> None:
    network = small(norm).double()
    x = tokens()
    y = x.clone()
    y[:, 5] = (y[:, 5] + 1) % 11
    one, other = network(x), network(y)
    assert one.shape == (3, 9, 11)
    torch.testing.assert_close(one[:, :5], other[:, :5])
    assert (one[:, 5:] - other[:, 5:]).abs().amax((0, 2)).min() > 1e-6
    torch.testing.assert_close(network(x[:, :4]), one[:, :4])


def test_rotations_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 8, dtype=torch.float64)
    rotation = _rotation(20, 8).double()

    def product(i: int, j: int) -> torch.Tensor:
        return _rotated(q, rotation[:, i]) @ _rotated(k, rotation[:, j])

    torch.testing.assert_close(product(3, 1), product(17, 15), rtol=1e-6, atol=1e-6)
    assert not torch.isclose(product(3, 1), product(3, 2))


def test_unit_vectors_whatever_the_lengths_of_weights() -> None:
    network = small("ngpt").double()
    states: list[torch.Tensor] = []
    for block in network.blocks:
        block.register_forward_hook(lambda _module, _args, output: states.append(output))
    before = network(tokens())
    for layer in (one for one in network.modules() if isinstance(one, UnitLinear)):
        lengths = layer.weight.norm(dim=layer.dim)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
    for state in states:
        torch.testing.assert_close(state.norm(dim=-1), torch.ones_like(state[..., 0]))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("weight"):
                dim = 0 if ".out." in name or ".down." in name else 1
                lengths = 0.5 + torch.rand(parameter.shape[1 - dim], dtype=torch.float64)
                parameter.mul_(lengths if dim == 0 else lengths[:, None])
    torch.testing.assert_close(network(tokens()), before)


def test_a_unit_step_is_written_out_for_a_block() -> None:
    """h <- u(h + 0.05 (u(attention) - h)), then the same with the gated network."""
    network = small("ngpt").double()
    block = network.blocks[0]
    u = nn.functional.normalize
    x = u(torch.randn(1, 1, 16, dtype=torch.float64), dim=-1)  # one token attends to itself
    V, out = u(block.v.weight, dim=1), u(block.out.weight, dim=0)
    h = u(x + 0.05 * (u(x @ V.T @ out.T, dim=-1) - x), dim=-1)
    up, gate = (4 * h @ u(layer.weight, dim=1).T for layer in (block.up, block.gate))
    inside = (up * nn.functional.silu(gate)) @ u(block.down.weight, dim=0).T
    expected = u(h + 0.05 * (u(inside, dim=-1) - h), dim=-1)
    rotation = network.get_buffer("rotation")[:, :1].double()
    torch.testing.assert_close(block(x, rotation), expected)


@pytest.mark.parametrize("example", [None, tokens()], ids=["names", "graph"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("tied", [False, True])
def test_opt_leaves_the_head_and_the_embedding(
    tied: bool, norm: str, example: torch.Tensor | None
) -> None:
    opt = OPT(small(norm, tied=tied), "cayley", example=example)
    inside = ("up", "down") if norm == "pre" else ("up", "gate", "down")
    found = {
        f"blocks.{block}.{name}" for block in range(2) for name in ("q", "k", "v", "out", *inside)
    }
    assert {*opt.layers} == found
    network = opt.network
    assert isinstance(network, GPT)
    assert (network.head.weight is network.embedding.weight) == tied


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", ["standard", "cayley", "frame", "sopt", "oft", "poet", "ogd"])
def test_methods_lower_its_loss_with_adamw(method: str, norm: str) -> None:
    """Only layers of blocks train: the embedding and the head alone could learn nine tokens."""
    network = small(norm)
    network.embedding.requires_grad_(False)
    network.head.requires_grad_(False)
    opt = OPT(network, method)
    optimizer = opt.optimizer(0.02, weight_decay=0, make=torch.optim.AdamW)
    x, y = tokens(), tokens().roll(-1, 1)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(opt(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01


def test_a_width_that_heads_cannot_share() -> None:
    with pytest.raises(UserError, match=r"model.width=12 must be a multiple of twice"):
        GPT(11, 9, width=12, heads=4)
