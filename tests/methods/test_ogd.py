"""ogd: the thin form against the reference's, and how well both stay on the orthogonal group."""

import pytest
import torch
from torch import Tensor, nn

from opt_runner import OPT
from opt_runner.layers import Layer
from opt_runner.methods import OrthogonalGradientDescent
from opt_runner.methods.kernels.retraction_sgd import RetractionSGD


def descend(
    form: str, W: Tensor, steps: int, momentum: float = 0.9, scale: float = 0.02
) -> tuple[Tensor, Tensor]:
    """V after `steps` towards a fixed target, and the orthogonality error."""
    method = OrthogonalGradientDescent(form=form)
    layer = Layer("fc", "fc.weight", *W.shape)
    R = nn.Parameter(method.init(layer, W, None)["R"].to(W).unsqueeze(0))
    target = torch.randn(W.shape, generator=torch.Generator().manual_seed(9), dtype=W.dtype)
    optimizer = RetractionSGD(
        [{"params": [R], "retract": True, "form": form}], lr=0.02, momentum=momentum
    )
    for _ in range(steps):
        optimizer.zero_grad()
        V = method.rotate(R, W.unsqueeze(0))
        (scale * (V - target).square().sum()).backward()
        optimizer.step()
    V = method.rotate(R, W.unsqueeze(0)).detach()
    error = method.measure(W.unsqueeze(0), V, R.detach())["orthogonality_error"]
    return V[0], error


def gaussian(d: int, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    W = torch.randn(d, n, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return W * (2 / d) ** 0.5


@pytest.mark.parametrize(("d", "n"), [(128, 16), (27, 64), (40, 40)])
def test_thin_follows_the_reference(d: int, n: int) -> None:
    W = gaussian(d, n, torch.float64)
    reference, _ = descend("reference", W, 50)
    thin, _ = descend("thin", W, 50)
    moved = (reference - W).abs().max()
    assert moved > 0.1
    assert (thin - reference).abs().max() < 1e-2 * moved


@pytest.mark.parametrize(("d", "n"), [(128, 16), (27, 64), (64, 60)])
def test_without_momentum_one_step_is_the_references(d: int, n: int) -> None:
    W = gaussian(d, n, torch.float64)
    thin, reference = (descend(form, W, 1, 0.0, scale=1e-3)[0] for form in ("thin", "reference"))
    torch.testing.assert_close(thin, reference, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [0.02, 10.0])
@pytest.mark.parametrize(("d", "n"), [(128, 16), (27, 64), (64, 60), (576, 64)])
def test_thin_does_not_drift(d: int, n: int, scale: float) -> None:
    _, error = descend("thin", gaussian(d, n), 1000 if d < 500 else 200, scale=scale)
    assert error.max() < 1e-5


def test_dependent_neurons() -> None:
    W = gaussian(32, 8)
    W[:, 5] = W[:, 2]
    W[:, 7] = 0
    V, _ = descend("thin", W, 300)
    assert (V.mT @ V - W.mT @ W).abs().max() < 1e-5
    assert torch.equal(V[:, 5], V[:, 2]) or (V[:, 5] - V[:, 2]).abs().max() < 1e-5


def test_the_network_keeps_its_own_w() -> None:
    network = nn.Sequential(nn.Linear(12, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
    W = network[0].weight.detach().clone()
    opt = OPT(network, "ogd")
    assert opt.stacks[0].trained["R"].shape == (1, 12, 6)
    optimizer = opt.optimizer(lr=0.1)
    opt(torch.randn(5, 12)).sum().backward()
    optimizer.step()
    assert torch.equal(network[0].weight, W)
    assert not torch.equal(opt.effective_weights()["0.weight"], W)
