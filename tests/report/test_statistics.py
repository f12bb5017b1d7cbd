"""Means and paired differences, against their formulas."""

import statistics
import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import t, ttest_1samp

from opt_runner.report.statistics import Difference, Mean, detectable_difference, holm

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
    found = Difference.paired(
        {seed: ours for seed, (ours, _) in enumerate(pairs)},
        {seed: theirs for seed, (_, theirs) in enumerate(pairs)},
    )
    assert found is not None
    differences = [ours - theirs for ours, theirs in pairs]
    n, mean = len(pairs), statistics.fmean(differences)
    assume(statistics.stdev(differences) > 1e-6)
    half = t.ppf(0.975, n - 1) * statistics.stdev(differences) / n**0.5
    assert (found.n, found.mean) == (n, pytest.approx(mean))
    assert found.low == pytest.approx(mean - half, rel=1e-6, abs=1e-6)
    assert found.high == pytest.approx(mean + half, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("by", [0.0, 0.28])
def test_equal_differences_have_no_interval_and_no_p(by: float) -> None:
    """As of errors counted on few test images. SciPy must not warn of it on a user's terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Difference.paired({0: 1.13 + by, 1: 0.57 + by}, {0: 1.13, 1: 0.57})
    assert found is not None
    assert found.mean == pytest.approx(by)
    assert (found.n, found.low, found.high, found.std, found.p) == (2, None, None, None, None)


def test_only_seeds_that_both_have_are_paired() -> None:
    found = Difference.paired({0: 1.0, 1: 2.0, 2: 9.0}, {1: 1.0, 2: 7.0, 3: 0.0})
    assert found is not None
    assert (found.n, found.mean) == (2, 1.5)
    assert Difference.paired({0: 1.0}, {1: 1.0}) is None


def test_one_pair_has_no_interval() -> None:
    assert Difference.paired({0: 3.0}, {0: 1.0}) == Difference(1, 2.0, None, None)


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.001, 0.9], [1.0, 0.003, 1.0]),
    ],
)
def test_holm_s_correction(p_values: list[float], corrected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(corrected)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_a_corrected_p_is_never_smaller_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= one <= 1 for p, one in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [corrected[i] for i in order] == sorted(corrected)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_four_of_five_experiments_find_the_detectable_difference(n: int, level: float) -> None:
    difference = detectable_difference(n, 2.0, level)
    samples = np.random.default_rng(0).normal(difference, 2.0, (20_000, n))
    found = (ttest_1samp(samples, 0, axis=1).pvalue < level).mean()
    assert found == pytest.approx(0.8, abs=0.02)
