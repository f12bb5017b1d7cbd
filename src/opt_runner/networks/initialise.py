"""The reference's start of every weight: W ~ N(0, 2/d)."""

from torch import nn


def gaussian_(network: nn.Module) -> None:
    """Draw each linear and convolution weight from N(0, 2/d), d its fan-in; biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
