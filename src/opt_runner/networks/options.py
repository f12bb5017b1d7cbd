"""Types of options that several networks have."""

from typing import Annotated

from pydantic import Field

# A width.
Positive = Annotated[int, Field(gt=0, le=65_536)]
# Layers one after the other.
Depth = Annotated[int, Field(gt=0, le=1_000)]
Widths = Annotated[tuple[Positive, ...], Field(min_length=1)]
Momentum = Annotated[float, Field(gt=0, le=1)]  # of BatchNorm's moving averages
Epsilon = Annotated[float, Field(gt=0, le=1)]
