"""Means over seeds, paired differences, their correction for many methods, and their power."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
POWER = 0.8
_ROUNDING = 1e-9  # a spread below this share of the values is none


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
    mean -+ t(n - 1) std / sqrt(n), with its p, two-sided.

    None of these where they cannot be told: for one pair, and for equal differences, as of errors
    counted on few test images, of which the t-test would be certain.
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
        """values - baseline over the seeds that both have; None where they share none."""
        seeds = sorted(values.keys() & baseline)
        if not seeds:
            return None
        ours, theirs = [values[seed] for seed in seeds], [baseline[seed] for seed in seeds]
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        mean = statistics.fmean(differences)
        std = statistics.stdev(differences) if len(seeds) > 1 else 0.0
        if std <= _ROUNDING * max(map(abs, (*ours, *theirs))):
            return cls(len(seeds), mean, None, None)
        from scipy.stats import ttest_rel  # slow to import: only where it is needed

        test = ttest_rel(ours, theirs)
        interval = test.confidence_interval(CONFIDENCE)
        low, high = float(interval.low), float(interval.high)
        return cls(len(seeds), mean, low, high, std, float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: of m tests the i-th smallest p becomes the largest of (m - j + 1) p_(j)
    over j <= i, at most 1. All below 0.05 together are wrong in at most one of 20 comparisons.

    Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    m, largest = len(p_values), 0.0
    corrected = [0.0] * m
    for place, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def detectable_difference(n: int, std: float, level: float) -> float:
    """The difference that a two-sided paired t-test at this level finds with a chance of 80%.

    n: pairs, at least two. std: of the differences. The t statistic of a true difference D is
    (z + c) / s with z normal, c = sqrt(n) D / std, and s the root of a mean of n - 1 squared
    normal numbers; its chance to pass the limit is taken over z in closed form, then over s.
    """
    from scipy.integrate import quad
    from scipy.optimize import brentq
    from scipy.stats import chi, norm, t

    df = n - 1
    limit = t.ppf(1 - level / 2, df)

    def missing(c: float) -> float:
        def found(root: float) -> float:
            at = limit * root / math.sqrt(df)
            return float(chi.pdf(root, df) * (norm.sf(at - c) + norm.cdf(-at - c)))

        # Beyond the median on either side apart: the density is narrow for a large n.
        middle = chi.median(df)
        return float(quad(found, 0, middle)[0] + quad(found, middle, math.inf)[0]) - POWER

    highest = 1.0
    while missing(highest) < 0:
        highest *= 2
    return float(brentq(missing, 0, highest)) * std / math.sqrt(n)
