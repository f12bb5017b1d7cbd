"""The step that is timed is the step of the loop."""

import copy

import pytest
import torch

from opt_runner.bench.cells import compose
from opt_runner.bench.settings import Settings
from opt_runner.bench.training_step import TrainingStep
from opt_runner.bench.workloads import WORKLOADS
from opt_runner.datasets import Images
from opt_runner.training.interrupt import StopRequest
from opt_runner.training.loop import Progress, Setup, train

STEPS = 5


@pytest.mark.parametrize("method", ["standard", "cayley", "ogd", "or", "sopt"])
def test_trains_as_the_loop_does(method: str, settings: Settings) -> None:
    workload = WORKLOADS["cnn9_tiny"]
    images, labels = workload.store()
    batches = workload.batches((images, labels), settings.hardware)
    cell = compose(f"method={method}", f"budget.steps={STEPS}")
    step = TrainingStep(workload.build(), cell, batches, settings.hardware)
    opt = copy.deepcopy(step.opt)
    data = Images(images, labels, images[:2], labels[:2], list("0123456789"))
    setup = Setup(settings.hardware, data, batches, opt, STEPS)
    train(
        setup, opt.optimizer(**cell.optimizer.model_dump()), cell, Progress(),
        lambda row: None, lambda progress: None, lambda progress, loss: None, StopRequest(),
    )  # fmt: skip
    for _ in range(STEPS):
        step()
    assert not step.diverged
    for ours, loops in zip(step.opt.parameters(), opt.parameters(), strict=True):
        assert torch.equal(ours, loops)
