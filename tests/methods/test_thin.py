"""Methods for layers whose d x d matrix would be too large never build one."""

import pytest
import torch
from torch import nn

from benchmarks.memory import peak_allocated
from opt_runner import OPT

D, N = 1_024, 4


def train_two_steps(method: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(D, N, bias=False), nn.ReLU(), nn.Linear(N, 2))
    opt = OPT(network, method)
    optimizer = opt.optimizer(lr=0.01)
    for _ in range(2):
        loss = opt(torch.ones(2, D)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize(
    "method", ["frame", "pogo", "landing", "oft", "boft", "hra", "givens", "poet"]
)
def test_nothing_of_size_d_times_d_is_built(method: str) -> None:
    assert peak_allocated(lambda: train_two_steps(method), torch.device("cpu")) < 4 * D * D


def test_a_square_r_would_show() -> None:
    assert peak_allocated(lambda: train_two_steps("cayley"), torch.device("cpu")) > 4 * D * D
