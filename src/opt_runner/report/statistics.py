"""Statistics over seeds: means, paired differences, Holm's correction, power."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

CONFIDENCE = 0.95
POWER = 0.8
_ROUNDING = 1e-9  # a spread below this share of the values counts as 0


@dataclass(frozen=True)
class Mean:
    """The mean of n values, and their standard deviation (n - 1), None for one value."""

    n: int
    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean | None":
        """Return the mean, or None if there are no values."""
        if not values:
            return None
        n, mean = len(values), fmean(values)
        # statistics.stdev is exact, and a hundred times as slow.
        std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else None
        return cls(n, mean, std)


@dataclass(frozen=True)
class Difference:
    """The mean of n paired differences, with the interval and the two-sided p of the paired t-test.

        mean -+ t(n - 1) std / sqrt(n)

    One pair has no interval and no p. Equal differences, for example of errors on few test images,
    have none either, because the t-test would be certain.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    std: float | None = None
    p: float | None = None

    @classmethod
    def paired(
        cls, values: Mapping[int, float], baseline: Mapping[int, float]
    ) -> "Difference | None":
        """Return values - baseline over the seeds that both have, or None if they share none."""
        seeds = sorted(values.keys() & baseline)
        found = Mean.of([values[seed] - baseline[seed] for seed in seeds])
        if found is None:
            return None
        largest = max(abs(of[seed]) for of in (values, baseline) for seed in seeds)
        if found.std is None or found.std <= _ROUNDING * largest:
            return cls(found.n, found.mean, None, None)
        from scipy.special import stdtr, stdtrit  # t's distribution; slow to import

        df, error = found.n - 1, found.std / math.sqrt(found.n)
        half = float(stdtrit(df, (1 + CONFIDENCE) / 2)) * error
        p = 2 * float(stdtr(df, -abs(found.mean / error)))
        return cls(found.n, found.mean, found.mean - half, found.mean + half, found.std, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values, corrected by Holm for their number.

    Of m tests the i-th smallest p becomes the largest of (m - j + 1) p_(j) over j <= i, at most 1.
    With the limit 0.05, at most one table in 20 has any false difference.

    Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    m, largest = len(p_values), 0.0
    corrected = [0.0] * m
    for place, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def detectable_difference(n: int, std: float, level: float) -> float:
    """Return the difference that a two-sided paired t-test at this level finds 4 times in 5.

    n: pairs, at least two. std: of the differences. With a true difference D the t statistic has
    the noncentral t distribution of n - 1 degrees of freedom and noncentrality sqrt(n) D / std. Its
    chance to pass the limit on the other side is negligible.
    """
    from scipy.special import nctdtrinc, stdtrit

    noncentrality = nctdtrinc(n - 1, 1 - POWER, stdtrit(n - 1, 1 - level / 2))
    return float(noncentrality) * std / math.sqrt(n)
