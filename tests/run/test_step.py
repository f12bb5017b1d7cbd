"""The step's learning rate, clipping and accumulation."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from opt_runner.config import components
from opt_runner.config.compose import from_arguments
from opt_runner.datasets.digits import Digits
from opt_runner.errors import UserError
from opt_runner.run.schedule import Milestones, Schedule, set_learning_rates
from opt_runner.run.set_up import set_up
from opt_runner.run.step import TrainingStep


def rates(*arguments: str, steps: int = 10) -> list[float]:
    """Return the learning rates of all steps, from a first one of 1."""
    config = from_arguments("optimizer.lr=1", *arguments)
    schedule = components.build(config.schedule, "schedule", Schedule)
    warmup = round(config.schedule.warmup * steps)
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    found = []
    for step in range(steps):
        set_learning_rates(optimizer, schedule, step, steps, warmup)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["schedule=constant", "schedule.warmup=0.2"], [0.5, *[1] * 9]),
        (["schedule=linear", "schedule.warmup=0"], [1 - t / 10 for t in range(10)]),
        (["schedule=linear", "schedule.final=0.5", "schedule.warmup=0"],
         [1 - t / 20 for t in range(10)]),
        (["schedule=cosine", "schedule.warmup=0"],
         [(1 + math.cos(math.pi * t / 10)) / 2 for t in range(10)]),
        (["schedule=cosine", "schedule.warmup=0.2", "schedule.final=0.2"],
         [0.5, 1, *(0.2 + 0.4 * (1 + math.cos(math.pi * t / 8)) for t in range(8))]),
        (["schedule=wsd", "schedule.warmup=0.1", "schedule.decay=0.4"],
         [*[1] * 7, 0.75, 0.5, 0.25]),
        (["schedule=milestones", "schedule.milestones=[0.4,0.8]", "schedule.warmup=0"],
         [*[1] * 4, *[0.1] * 4, *[0.01] * 2]),
    ],
)  # fmt: skip
def test_schedules(arguments: list[str], wanted: list[float]) -> None:
    assert rates(*arguments) == pytest.approx(wanted)


def test_a_budget_of_one_step_has_the_full_rate() -> None:
    assert Milestones(milestones=(0.4, 0.8), factor=0.1)(0, 1, 0, {}) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["schedule=cosine", "schedule.factor=0.1"], "schedule.factor"),
        (["schedule=cosine", "schedule.final=2"], "schedule.final"),
        (["optimizer=adamw", "optimizer.momentum=0.9"], "optimizer.momentum"),
        (["optimizer=adamw", "optimizer.betas=[1,0.9]"], "optimizer.betas"),
        (["optimizer=muon", "optimizer.iterations=0"], "optimizer.iterations"),
        (["optimizer.accumulate=0"], "optimizer.accumulate"),
        (["optimizer.clip=0"], "optimizer.clip"),
        (["optimizer=adam"], "adamw"),
    ],
)
def test_mistakes(arguments: list[str], says: str) -> None:
    with pytest.raises(Exception, match=says):
        from_arguments(*arguments)


def small(*arguments: str) -> Any:
    config = from_arguments(
        "model=mlp", "model.widths=[8]", "hardware=cpu", "hardware.threads=1", "budget.steps=4",
        "hardware.precision=float64", "batch_size=12", "schedule=constant", "schedule.warmup=0",
        *arguments,
    )  # fmt: skip
    return set_up(config, Digits().load())


@pytest.mark.parametrize("method", ["cayley", "mhe"])
def test_parts_of_a_batch_add_up_to_the_batch(method: str) -> None:
    losses = []
    for parts in (1, 5):
        setup = small(f"method={method}", f"optimizer.accumulate={parts}")
        for module in setup.opt.modules():  # its statistics are of a part
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        step = TrainingStep(setup)
        for _ in range(3):
            step()
        losses.append([float(step.loss), float(step.penalty), step.take_mean_loss()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_gradients_are_clipped_together() -> None:
    norms = []
    for clip in ("null", "0.001"):
        setup = small("method=cayley", f"optimizer.clip={clip}")
        TrainingStep(setup)()
        gradients = [p.grad.flatten() for p in setup.opt.parameters() if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))
    assert norms[0] > 0.01
    assert norms[1] == pytest.approx(0.001, rel=1e-3)


def test_any_optimizer_of_torch_may_be_named() -> None:
    setup = small("optimizer=adamw", "optimizer.name=radam", "optimizer._target_=torch.optim.RAdam")
    assert isinstance(setup.optimizer, torch.optim.RAdam)
    TrainingStep(setup)()


def test_more_parts_than_images_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"optimizer\.accumulate"):
        small("optimizer.accumulate=13")
