"""Types that options of several networks have."""

from typing import Annotated

from pydantic import Field

Positive = Annotated[int, Field(gt=0)]
Widths = Annotated[tuple[Positive, ...], Field(min_length=1)]
Momentum = Annotated[float, Field(gt=0, le=1)]  # of BatchNorm's moving averages
Epsilon = Annotated[float, Field(gt=0)]
