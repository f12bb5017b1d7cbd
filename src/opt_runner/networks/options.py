"""Types of options that several networks have."""

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
