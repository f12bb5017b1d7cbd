"""A network small enough to train in a test, steps on random images, and what runs leave."""

from typing import Any

import torch
from torch import nn

from opt_runner import OPT
from opt_runner.methods import PAPER
from opt_runner.networks import PlainCNN
from opt_runner.records.result import Result
from opt_runner.run.run import Run

# The paper's, and of its rivals one of each kind: what holds for these, run by run, holds for all.
SOME_METHODS = [*PAPER, "frame", "poet", "comhe", "delta_orthogonal"]


def small_cnn() -> PlainCNN:
    """For 3 x 8 x 8 images of 5 classes: the same weights each time."""
    torch.manual_seed(0)
    return PlainCNN(3, (8, 8), 5, widths=(6, 8), convs=2, fc_width=7, bn_momentum=0.1)


def rows(run: Run) -> list[dict[str, Any]]:
    """The rows of a run's metrics, without times: a run that repeats it has the same."""
    timed = ("seconds", "samples_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in run.record.read_metrics()]


def train(opt: OPT, steps: int = 4, **options: float) -> list[float]:
    """The loss of each step, the penalty in it: the same images and draws each time."""
    torch.manual_seed(1)
    optimizer = opt.optimizer(**{"lr": 0.05, **options})
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        x = torch.randn(16, 3, 8, 8, generator=generator)
        y = torch.randint(5, (16,), generator=generator)
        loss = nn.functional.cross_entropy(opt(x), y) + opt.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def new_result() -> Result:
    """A run before its first step."""
    return Result("abc", "cayley", "mlp", "digits", 0)
