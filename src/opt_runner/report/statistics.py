"""Means over seeds, and differences paired by seed, with what can be said about them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """Of n values; std, with n - 1, is None for one value."""

    n: int
    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean | None":
        """None where there are no values."""
        if not values:
            return None
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(len(values), statistics.fmean(values), std)


@dataclass(frozen=True)
class Difference:
    """The mean of n differences, and its interval: mean -+ t(n - 1) std / sqrt(n).

    For one pair there is no interval: low and high are None.
    """

    n: int
    mean: float
    low: float | None
    high: float | None

    @classmethod
    def paired(
        cls, values: Mapping[int, float], baseline: Mapping[int, float]
    ) -> "Difference | None":
        """values - baseline over the seeds that both have; None where they share none."""
        differences = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline)]
        if not differences:
            return None
        n, mean = len(differences), statistics.fmean(differences)
        if n == 1:
            return cls(n, mean, None, None)
        from scipy.stats import t  # slow to import: only where it is needed

        half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * statistics.stdev(differences) / n**0.5
        return cls(n, mean, mean - half, mean + half)

    @property
    def clears_zero(self) -> bool:
        """Whether zero lies outside of the interval."""
        return self.low is not None and self.high is not None and self.low * self.high > 0
