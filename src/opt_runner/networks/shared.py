"""What several networks share: types of options, and the reference's start of W."""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field
from torch import nn

# A width.
Positive = Annotated[int, Field(gt=0, le=65_536)]
# Layers one after the other.
Depth = Annotated[int, Field(gt=0, le=1_000)]
Widths = Annotated[tuple[Positive, ...], Field(min_length=1)]
Momentum = Annotated[float, Field(gt=0, le=1)]  # of BatchNorm's moving averages
Epsilon = Annotated[float, Field(gt=0, le=1)]
Dropped = Annotated[float, Field(ge=0, lt=1)]  # share of dropout
Norm = Callable[[int], nn.Module]  # of a number of channels


def gaussian_(network: nn.Module) -> None:
    """Draw each linear and convolution weight from N(0, 2/d), d its fan-in; biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
