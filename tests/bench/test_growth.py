"""Exponents, crossings and the plot's labels, from made-up costs."""

import numpy as np
import pytest

from opt_runner.bench.growth import Curve, crossing, fitted
from opt_runner.bench.growth_plot import apart
from opt_runner.bench.samples import Summary

SIZES = (64, 128, 256, 512)


def curve(*seconds: float) -> Curve:
    return Curve({d: Summary.of([s]) for d, s in zip(SIZES, seconds, strict=False)})


def test_the_exponent_is_that_of_the_largest_sizes() -> None:
    assert fitted({64: 1.0, **{d: 1e-9 * d**2.5 for d in SIZES[1:]}}).exponent == pytest.approx(2.5)
    assert fitted({64: 1.0}).exponent is None


def test_a_curve_in_the_units_of_the_plots() -> None:
    both = Curve({64: Summary.of([2.0])}, {64: 3 * 2**20})
    assert both.time.values == {64: 2000}
    assert both.memory.values == {64: 3}


def test_the_forecast_grows_by_the_cube() -> None:
    assert curve(1.0, 4.0).forecast(256) == pytest.approx(32)
    assert Curve().forecast(64) == 0


@pytest.mark.parametrize(
    ("seconds", "start"),
    [
        ((1, 1, 1, 1), 64),
        ((3, 1, 1, 1), 128),
        ((1, 3, 1, 1), 256),
        ((1, 1, 1, 3), None),
        ((3, 1, 1), 128),
        ((), None),
    ],
)
def test_a_crossing_counts_from_where_it_lasts(seconds: tuple, start: int | None) -> None:
    assert crossing(curve(*seconds), curve(2, 2, 2, 2)) == start


def test_labels_keep_their_order_and_their_distance() -> None:
    heights = np.array([0.5, 0.51, 0.1, 0.5, 0.9])
    moved = apart(heights, 0.05)
    assert np.argsort(moved).tolist() == [2, 0, 3, 1, 4]
    assert np.diff(np.sort(moved)).min() >= 0.05 - 1e-9
    assert moved[2] == pytest.approx(0.1)
    assert moved[4] == pytest.approx(0.9)
    assert moved[[0, 1, 3]].mean() == pytest.approx(heights[[0, 1, 3]].mean())
