"""The multilayer perceptron on images."""

import torch

from opt_runner import OPT
from opt_runner.networks import MLP


def test_mlp() -> None:
    opt = OPT(MLP(2, (5, 4), 3, widths=(12, 9)), "ls")
    assert opt.layers == ["features.1", "features.4"]
    assert opt(torch.randn(6, 2, 5, 4)).shape == (6, 3)
