"""What is trained in the benchmark is what it was for the results that are kept in docs/."""

import json
from pathlib import Path

import pytest
import torch

from opt_runner.bench import limits
from opt_runner.bench.workloads import WORKLOADS, graphed
from opt_runner.run.set_up import Setup, set_up
from tests.bench.conftest import HARDWARE

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


def made(network: str, count: int) -> Setup:
    workload = WORKLOADS[network]
    return set_up(workload.config("method=cayley", *HARDWARE), workload.images(count))


@pytest.mark.parametrize(("network", "batch_size", "side", "classes"), NETWORKS)
def test_the_kept_results_are_of_these_workloads(
    network: str, batch_size: int, side: int, classes: int, one_thread: None
) -> None:
    setup = made(network, count=batch_size)
    assert setup.config.batch_size == batch_size
    assert setup.data.size == (side, side)
    assert setup.data.num_classes == classes
    assert sorted((layer.d, layer.n) for layer in setup.opt.hidden) == sorted(LAYERS[network])


def test_images_are_random_and_always_the_same() -> None:
    images = WORKLOADS["mlp"].images(500)
    again = WORKLOADS["mlp"].images(500)
    assert torch.equal(images.train_images, again.train_images)
    assert torch.equal(images.train_labels, again.train_labels)
    assert len(images.train_images.unique()) == 256
    assert len(images.train_labels.unique()) == 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["standard", "ogd"])
def test_a_captured_step_trains(method: str) -> None:
    workload = WORKLOADS["cnn9_tiny"]
    step = graphed(workload, workload.images(), f"method={method}", "hardware.device=cuda")
    step()
    assert not step.diverged_at()


def test_limits_hold_for_what_they_name() -> None:
    step = "time of a step, cnn9, cpu"
    assert limits.judged(step, 1.12, "gs") == {"limit": 1.12, "met": True}
    assert limits.judged(step, 1.13, "gs") == {"limit": 1.12, "met": False}
    assert limits.judged(step, 1.13, "standard") == {"limit": None, "met": None}
    loader = "data path, times as fast as a DataLoader"
    assert limits.judged(loader, 9.9) == {"limit": 10, "met": False}
    assert limits.judged(loader, 10.1) == {"limit": 10, "met": True}


def test_a_batch_may_be_larger_than_the_store() -> None:
    workload = WORKLOADS["cnn6_narrow"]
    assert len(workload.images_for().train_labels) == workload.count
    assert len(workload.images_for("batch_size=2000").train_labels) == 2_000
