"""Methods, tasks and optimizers go together: ten steps of each combination."""

import itertools
import math
from functools import cache
from typing import Any

import pytest
import torch

from opt_runner.config import components
from opt_runner.config.compose import conf_dir, from_arguments
from opt_runner.datasets import Data, Dataset, loaded
from opt_runner.methods import METHODS
from opt_runner.run.set_up import set_up
from opt_runner.run.step import TrainingStep

TASKS = {
    "digits": ["model=mlp", "model.widths=[8,8]", "batch_size=16"],
    "text": ["dataset.context=8", "model=gpt_nano", "model.width=8", "model.heads=2",
             "model.depth=1", "batch_size=4"],
    "graph": ["model=gcn", "model.widths=[8,8]"],
    "points": ["model=pointnet", "batch_size=8"],
}  # fmt: skip
OPTIMIZERS = sorted(path.stem for path in conf_dir().glob("optimizer/*.yaml"))
EVERY = [*itertools.product(METHODS, TASKS, OPTIMIZERS)]
# Every method once, and with them every pair of a task and an optimizer.
SAMPLE = {
    (method, [*TASKS][number % len(TASKS)], OPTIMIZERS[number % len(OPTIMIZERS)])
    for number, method in enumerate(METHODS)
}


@cache
def data(task: str) -> Data:
    config = from_arguments(f"dataset={task}", *TASKS[task])
    return loaded(components.build(config.dataset, "dataset", Dataset))


def options(method: str) -> list[str]:
    """Return what a method needs beside its defaults."""
    given: dict[str, Any] = {"sopt": ["method.round_steps=4"], "poet": ["method.round_steps=4"]}
    return list(given.get(method, []))


@pytest.mark.parametrize(
    ("method", "task", "optimizer"),
    [
        pytest.param(*one, marks=() if one in SAMPLE else pytest.mark.slow, id="-".join(one))
        for one in EVERY
    ],
)
def test_ten_steps(method: str, task: str, optimizer: str) -> None:
    config = from_arguments(
        f"dataset={task}", *TASKS[task], f"method={method}", f"optimizer={optimizer}",
        "schedule=cosine", "budget.steps=10", "hardware=cpu",
        # SGD moves as far as the gradient is long: at 0.003 some of a GPT moves less than rounding.
        f"optimizer.lr={0.03 if optimizer == 'sgd' else 0.003}",
        "hardware.threads=1", *options(method),
    )  # fmt: skip
    setup = set_up(config, data(task))
    before = {name: V.clone() for name, V in setup.opt.effective_weights().items()}
    plain = {name: p.detach().clone() for name, p in setup.opt.network.named_parameters()}
    setup.opt.train()
    step = TrainingStep(setup)
    for _ in range(10):
        step()
    assert not step.diverged_at()
    assert math.isfinite(step.take_mean_loss())
    now = setup.opt.effective_weights()
    trained = {**dict(setup.opt.network.named_parameters()), **now}
    moved = {
        name: not torch.equal(value, (plain | before)[name]) for name, value in trained.items()
    }
    assert all(moved[name] for name in before), "an R that did not move"
    assert sum(moved.values()) >= len(moved) / 2
