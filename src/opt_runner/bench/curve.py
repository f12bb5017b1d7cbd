"""The cost of one rotation over d."""

from dataclasses import dataclass, field

import numpy as np

from opt_runner.bench.summary import Summary

# An exponent is fitted to so many of the largest sizes: the small ones are all overhead.
FITTED = 3


@dataclass
class Curve:
    """One method: the summary of its samples, in seconds, at each d, and what was left out."""

    costs: dict[int, Summary] = field(default_factory=dict)
    left_out: dict[int, str] = field(default_factory=dict)
    spent: float = 0.0  # seconds, in all

    def forecast(self, d: int) -> float:
        """Seconds of one call, if the cost grows by d^3 from the largest size so far."""
        if not self.costs:
            return 0.0
        largest = max(self.costs)
        return self.costs[largest].median * (d / largest) ** 3

    def exponent(self) -> float | None:
        """The slope of log(median) over log(d) at the largest sizes, by least squares."""
        sizes = sorted(self.costs)[-FITTED:]
        if len(sizes) < 2:
            return None
        medians = [self.costs[d].median for d in sizes]
        slope, _ = np.polyfit(np.log(sizes), np.log(medians), deg=1)
        return float(slope)


def crossing(curve: Curve, other: Curve) -> int | None:
    """The least measured d from which on `curve` costs less at every d that both have."""
    start = None
    for d in sorted(curve.costs.keys() & other.costs.keys(), reverse=True):
        if curve.costs[d].median >= other.costs[d].median:
            break
        start = d
    return start
