"""Exponents, crossings and the plot's labels, from made-up costs."""

from itertools import pairwise

import pytest

from opt_runner.bench.curve import Curve, crossing
from opt_runner.bench.growth_plot import _LABEL_DISTANCE, _apart
from opt_runner.bench.summary import Summary

SIZES = (64, 128, 256, 512)


def curve(*seconds: float) -> Curve:
    return Curve({d: Summary.of([s]) for d, s in zip(SIZES, seconds, strict=False)})


def test_the_exponent_is_that_of_the_largest_sizes() -> None:
    costs = curve(1.0, *(1e-9 * d**2.5 for d in SIZES[1:]))
    assert costs.exponent() == pytest.approx(2.5)
    assert curve(1.0).exponent() is None


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
    heights = {"a": 0.5, "b": 0.51, "c": 0.1, "d": 0.5, "e": 0.9}
    moved = _apart(heights)
    assert list(moved) == ["c", "a", "d", "b", "e"]
    placed = list(moved.values())
    assert all(b - a >= _LABEL_DISTANCE - 1e-9 for a, b in pairwise(placed))
    assert moved["c"] == pytest.approx(0.1)
    assert moved["e"] == pytest.approx(0.9)
