"""In which order samples are taken, how many, and their summaries; no test here asserts a time."""

import itertools

import pytest
import torch

from benchmarks.samples import (
    Summary,
    Task,
    attempted,
    figure,
    interleaved,
    paired,
    sampler,
)

CPU = torch.device("cpu")


def test_pairs_have_the_baseline_on_both_sides() -> None:
    """A machine that slows down linearly changes no ratio of a task to its two neighbours."""
    clock = itertools.count(10)
    order: list[str] = []

    def take(name: str, factor: float) -> float:
        order.append(name)
        return factor * next(clock)

    pairs = paired(
        lambda: take("A", 1),
        {"B": lambda: take("B", 2), "C": lambda: take("C", 3)},
        samples=2,
    )
    assert "".join(order) == "ABACABACA"
    for name, factor in (("B", 2), ("C", 3)):
        assert pairs[name]["ratio"].lower_quartile == pytest.approx(factor)
        assert pairs[name]["ratio"].upper_quartile == pytest.approx(factor)


def test_interleaved_samples_stop_at_the_budget_but_not_before_three() -> None:
    seconds = interleaved({"slow": lambda: 5.0, "quick": lambda: 1.0}, samples=9, budget=6)
    assert {name: len(taken) for name, taken in seconds.items()} == {"slow": 3, "quick": 6}
    assert len(interleaved({"slow": lambda: 5.0}, samples=2, budget=1)["slow"]) == 2


def test_each_sample_is_prepared_and_warmed_up() -> None:
    done: list[str] = []
    task = Task(run=lambda: done.append("run"), prepare=lambda: done.append("prepare"))
    take = sampler(task, CPU)
    assert done == ["prepare", "run"]
    assert take() >= 0
    assert done == ["prepare", "run"] * 2


def test_a_sample_has_as_many_calls_as_fill_it() -> None:
    calls = 0

    def run() -> None:
        nonlocal calls
        calls += 1

    take = sampler(Task(run), CPU, shortest=0.01)
    calls = 0
    take()
    assert calls > 1


def test_what_fails_is_left_out_with_its_reason() -> None:
    def fails() -> None:
        raise RuntimeError("no\nmore")

    made, errors = attempted({"one": lambda: 1, "none": fails})
    assert made == {"one": 1}
    assert errors == {"none": "RuntimeError: no"}


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
