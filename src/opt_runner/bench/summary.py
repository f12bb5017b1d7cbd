"""Samples of one quantity as n, median and quartiles."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Half of the n samples lie between the quartiles. The median is robust against what else the
    machine did, where a mean is not."""

    n: int
    median: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, samples: Iterable[float]) -> Self:
        """Raises ValueError where there are no samples."""
        values = list(samples)
        if not values:
            raise ValueError("no samples to summarise")
        lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75])
        return cls(len(values), float(median), float(lower), float(upper))

    def text(self, scale: float = 1.0, digits: int = 3) -> str:
        """`median [lower quartile, upper quartile]`, each times `scale`."""
        low, middle, high = (
            figure(scale * value, digits)
            for value in (self.lower_quartile, self.median, self.upper_quartile)
        )
        return f"{middle} [{low}, {high}]"


def figure(value: float, digits: int = 3) -> str:
    """`value` to so many significant digits, without an exponent: 0.00123, 1.23, 12,345."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, decimals)}f}"
