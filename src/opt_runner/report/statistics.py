"""Means over seeds, and paired differences with their confidence intervals."""

import statistics
import warnings
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
    """The mean of n paired differences, and the interval of the paired t-test:
    mean -+ t(n - 1) std / sqrt(n).

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
        seeds = sorted(values.keys() & baseline)
        if not seeds:
            return None
        ours, theirs = [values[seed] for seed in seeds], [baseline[seed] for seed in seeds]
        mean = statistics.fmean(a - b for a, b in zip(ours, theirs, strict=True))
        if len(seeds) == 1:
            return cls(1, mean, None, None)
        from scipy.stats import ttest_rel  # slow to import: only where it is needed

        with warnings.catch_warnings():
            # Equal differences, as of errors counted on few test images, make SciPy warn of the
            # precision of the statistic. The interval is right: it has no width.
            warnings.simplefilter("ignore", RuntimeWarning)
            interval = ttest_rel(ours, theirs).confidence_interval(CONFIDENCE)
        return cls(len(seeds), mean, float(interval.low), float(interval.high))

    @property
    def clears_zero(self) -> bool:
        """Whether zero lies outside of the interval."""
        return self.low is not None and self.high is not None and self.low * self.high > 0
