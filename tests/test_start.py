"""How W starts: as given, drawn anew, or kept with what the network computes."""

import pytest
import torch
from torch import Tensor, nn

from opt_runner import OPT
from opt_runner.errors import UserError
from opt_runner.methods import METHODS, Method, SquareRotation, method_options
from tests.methods.own.block_diagonal import BlockDiagonal
from tests.methods.own.two_sided import TwoSided
from tests.networks_of_users import NETWORKS
from tests.small import small_cnn

SETS_W = ["orthogonal_init", "delta_orthogonal"]


@pytest.mark.parametrize("method", SETS_W)
def test_a_method_that_sets_w_keeps_no_given_one(method: str) -> None:
    with pytest.raises(UserError, match="sets W itself at the start, so it cannot keep pretrained"):
        OPT(small_cnn(), method, weights="pretrained")


@pytest.mark.parametrize("method", [name for name in METHODS if name not in SETS_W])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_pretrained_network_computes_what_it_did(name: str, method: str) -> None:
    make, x, options = NETWORKS[name]
    torch.manual_seed(0)
    network = make()
    expected = network(x).detach()
    opt = OPT(network, method, weights="pretrained", **options)
    torch.testing.assert_close(opt(x), expected, rtol=0, atol=1e-6)
    if method != "standard":
        opt(x).square().sum().backward()
        assert all(
            t.grad.isfinite().all() and (t.grad.any() or t.shape[-1] == 1)
            for stack in opt.stacks
            for t in stack.trained.values()
        )


@pytest.mark.parametrize("inner", ["gs", "hr", "ls", "cayley"])
def test_rounds_of_a_pretrained_network(inner: str) -> None:
    network = small_cnn().eval()
    x = torch.randn(4, 3, 8, 8)
    expected = network(x).detach()
    opt = OPT(network, "sopt", inner=inner, share=0.5, weights="pretrained").eval()
    torch.testing.assert_close(opt(x), expected, rtol=0, atol=1e-5)
    for stack in opt.stacks:
        stack.merge()
        stack.restart(1)
    torch.testing.assert_close(opt(x), expected, rtol=0, atol=1e-5)


@method_options
class Exponential(SquareRotation):
    start: str = "normal"
    angle: float = 0.1

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        A = torch.ones_like(R).triu(1)  # a turn that no R undoes
        return torch.linalg.matrix_exp(R - R.mT + self.angle * (A - A.mT)) @ W


class Stretch(Method):
    def init(self, layer, W, generator):
        return {"scale": torch.full((layer.n,), 2.0)}

    def weight(self, W, scale):
        return W * scale.unsqueeze(-2)


@pytest.mark.parametrize("method", [Exponential(), BlockDiagonal(block=1), TwoSided(spread=0)])
def test_methods_of_a_users_own_keep_it_too(method: Method) -> None:
    network = small_cnn().eval()
    x = torch.randn(4, 3, 8, 8)
    expected = network(x).detach()
    opt = OPT(network, method, weights="pretrained").eval()
    torch.testing.assert_close(opt(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [TwoSided(spread=1), Stretch()])
def test_what_cannot_keep_it_says_so(method: Method) -> None:
    with pytest.raises(UserError, match="cannot start from pretrained weights: V differs from W"):
        OPT(small_cnn(), method, weights="pretrained")


def test_a_given_network_is_left_as_it_is() -> None:
    before = small_cnn().state_dict()
    for weights in ("given", "pretrained"):
        opt = OPT(small_cnn(), "cayley", weights=weights)
        assert all(torch.equal(v, before[k]) for k, v in opt.network.state_dict().items())


def test_w_is_drawn_anew() -> None:
    network = nn.Sequential(
        nn.Linear(400, 300), nn.ConvTranspose2d(100, 200, (2, 3), groups=2), nn.Linear(5, 5)
    )
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    opt = OPT(network, "cayley", weights="gaussian", generator=generator)
    assert [(layer.d, layer.n) for layer in opt.hidden] == [(400, 300), (300, 200)]
    for layer in opt.hidden:
        W = layer.matrix(network.get_parameter(layer.parameter))
        assert W.std().item() == pytest.approx((2 / layer.d) ** 0.5, rel=0.01)
        assert abs(W.mean().item()) < 0.001
    untouched = {name for name, p in network.named_parameters() if torch.equal(p, before[name])}
    assert untouched == {"0.bias", "1.bias", "2.weight", "2.bias"}
