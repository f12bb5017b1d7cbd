"""Means and paired differences, against SciPy's own test."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from opt_runner.report.statistics import Difference, Mean

PERCENT = st.floats(0, 100).map(lambda value: round(value, 3))


def test_mean_of_nothing_and_of_one() -> None:
    assert Mean.of([]) is None
    assert Mean.of([2.0]) == Mean(1, 2.0, None)


@given(st.lists(PERCENT, min_size=2, max_size=8))
def test_mean_and_deviation(values: list[float]) -> None:
    mean = Mean.of(values)
    assert mean is not None
    assert mean.n == len(values)
    assert mean.mean == pytest.approx(statistics.fmean(values))
    assert mean.std == pytest.approx(statistics.stdev(values))


@given(st.lists(st.tuples(PERCENT, PERCENT), min_size=2, max_size=8))
def test_the_interval_is_that_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    found = Difference.paired(dict(enumerate(ours)), dict(enumerate(theirs)))
    assert found is not None
    differences = [a - b for a, b in pairs]
    if statistics.stdev(differences) < 1e-6:
        return  # SciPy has no interval where nothing varies
    expected = ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found.low == pytest.approx(expected.low, rel=1e-6, abs=1e-6)
    assert found.high == pytest.approx(expected.high, rel=1e-6, abs=1e-6)


def test_only_seeds_that_both_have_are_paired() -> None:
    found = Difference.paired({0: 1.0, 1: 2.0, 2: 9.0}, {1: 1.0, 2: 7.0, 3: 0.0})
    assert found is not None
    assert (found.n, found.mean) == (2, 1.5)
    assert Difference.paired({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("low", "high", "clears"),
    [(-2, -1, True), (1, 2, True), (-1, 1, False), (None, None, False), (0, 1, False)],
)
def test_clears_zero(low: float | None, high: float | None, clears: bool) -> None:
    assert Difference(3, 0.0, low, high).clears_zero is clears
