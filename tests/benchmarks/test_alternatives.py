"""What our rotations are compared with computes the same, and the kept results are of these.

tests/methods/test_rotations_are_exact.py compares the naive forms of the exact methods.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import naive
from benchmarks.rotations import ALTERNATIVES, OURS, Layer
from benchmarks.workloads import WORKLOADS
from opt_runner import layers
from opt_runner.methods.ogd import OrthogonalGradientDescent
from opt_runner.methods.or_ import OrthogonalRegularization

KEPT = Path(__file__).parents[2] / "docs/results/performance/steps.json"
KEYS = ("network", "batch_size", "side", "classes")
NETWORKS = sorted({tuple(row[k] for k in KEYS) for row in json.loads(KEPT.read_text())["rows"]
                   if row["measure"] == "time"})  # fmt: skip
# Of every layer with an R: d, n.
LAYERS = {
    "cnn9": [(27, 64), *8 * [(576, 64)], (1024, 64)],
    "cnn6_narrow": [(9, 32), *5 * [(288, 32)], (32, 32)],
    "mlp": [(64, 256), (256, 256)],
}


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


BUILDS = OURS | {name: build for name, (_, build) in ALTERNATIVES.items()}


@pytest.mark.parametrize("name", BUILDS)
def test_tasks_run_again_and_again(name: str, one_thread: None) -> None:
    task = BUILDS[name](Layer.of(16, 4, torch.device("cpu")))
    for _ in range(3):
        task.prepare()
        task.run()


@pytest.mark.parametrize(("network", "batch_size", "side", "classes"), NETWORKS)
def test_the_kept_results_are_of_these_workloads(
    network: str, batch_size: int, side: int, classes: int, one_thread: None
) -> None:
    workload = WORKLOADS[network]
    setup = workload.step(workload.images(batch_size), "method=cayley", "hardware=cpu").setup
    assert setup.config.batch_size == batch_size
    assert setup.data.size == (side, side)
    assert setup.data.num_classes == classes
    assert sorted((layer.d, layer.n) for layer in setup.opt.hidden) == sorted(LAYERS[network])


def test_images_are_always_the_same_and_a_batch_at_least() -> None:
    images, again = (WORKLOADS["mlp"].images(500) for _ in range(2))
    assert torch.equal(images.train.inputs, again.train.inputs)
    assert torch.equal(images.train.targets, again.train.targets)
    assert len(images.train.targets.unique()) == 10
    assert len(WORKLOADS["mlp"].images_for("batch_size=2000").train.targets) == 2_000
