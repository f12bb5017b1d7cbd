"""Medians, quartiles and how figures are written."""

import pytest

from opt_runner.bench.summary import Summary, figure


def test_median_and_quartiles() -> None:
    summary = Summary.of([5.0, 1.0, 2.0, 4.0, 3.0])
    assert summary == Summary(n=5, median=3, lower_quartile=2, upper_quartile=4)
    assert summary.text(scale=10) == "30.0 [20.0, 40.0]"


def test_one_sample_is_its_own_spread() -> None:
    assert Summary.of([7.0]) == Summary(1, 7, 7, 7)


def test_no_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        Summary.of([])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "1.00"), (0.00123, "0.00123"), (99.94, "99.9"), (12345.6, "12,346"),
     (-2.5, "-2.50"), (float("nan"), "nan")],
)  # fmt: skip
def test_figures(value: float, text: str) -> None:
    assert figure(value) == text
