"""What our rotations are compared with computes the same, or a rotation at least.

tests/methods/test_rotations_are_exact.py compares the naive forms of the exact methods.
"""

import pytest
import torch
from torch import Tensor, nn

from opt_runner import layers
from opt_runner.bench import naive
from opt_runner.bench.one_layer import (
    ALTERNATIVES,
    OURS,
    Layer,
    geotorch_map,
    parametrized,
    torch_map,
)
from opt_runner.bench.samples import Task
from opt_runner.geometry import orthogonality_error
from opt_runner.methods.ogd import OrthogonalGradientDescent
from opt_runner.methods.or_ import OrthogonalRegularization


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_naive_penalty_equals_ours() -> None:
    R, W = draw(9, 9), draw(1, 9, 4)
    layer = layers.Layer("", "weight", d=9, n=4)
    ours = OrthogonalRegularization().penalty(layer, W, W, step=1, R=R.unsqueeze(0))
    torch.testing.assert_close(ours, naive.penalty(R))


def test_naive_retraction_equals_the_references() -> None:
    method = OrthogonalGradientDescent(form="reference")
    R, W = torch.eye(9, dtype=torch.float64), draw(9, 4)
    M = torch.zeros_like(R)
    stack = nn.Parameter(R.clone().unsqueeze(0))
    groups = [{"params": [stack], **method.optimizer_options("R", lr=0.1, weight_decay=0.0)}]
    optimizer = method.optimizer_class(groups, lr=0.1, momentum=0.9)
    for step in range(3):
        G = draw(9, 4, seed=step)
        R, M = naive.retraction(R, M, G @ W.T, lr=method.rotation_lr)
        torch.autograd.backward(method.rotate(stack, W.unsqueeze(0)), G.unsqueeze(0))
        optimizer.step()
    torch.testing.assert_close(stack[0].detach(), R)


@pytest.mark.parametrize("orthogonal_map", ["cayley", "matrix_exp", "householder"])
def test_torch_gives_rotations(orthogonal_map: str) -> None:
    layer = parametrized(torch_map(orthogonal_map), draw(12, 12).float())
    assert orthogonality_error(layer.weight) < 1e-5


@pytest.mark.parametrize("triv", ["cayley", "expm"])
def test_geotorch_gives_rotations(triv: str) -> None:
    pytest.importorskip("geotorch")
    R = draw(12, 12).float()
    layer = parametrized(geotorch_map(triv), R)
    assert orthogonality_error(layer.weight) < 1e-5
    assert torch.equal(layer.parametrizations.weight.original, R)


BUILDS = {**OURS, **{other.name: other.build for other in ALTERNATIVES}}


@pytest.mark.parametrize("name", BUILDS)
def test_tasks_run_again_and_again(name: str, one_thread: None) -> None:
    task: Task = BUILDS[name](Layer.of(16, 4, torch.device("cpu")))
    for _ in range(3):
        task.prepare()
        task.run()
