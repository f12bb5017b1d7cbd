"""In which order samples are taken, and how many; no test here asserts a time."""

import itertools

import pytest
import torch

from opt_runner.bench.timing import Task, first_line, interleaved, paired, sampler

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
    assert [pair.ratio for pair in pairs["B"]] == pytest.approx([2, 2])
    assert [pair.ratio for pair in pairs["C"]] == pytest.approx([3, 3])


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


def test_an_error_in_one_line() -> None:
    assert first_line(RuntimeError("no\nmore")) == "RuntimeError: no"
    assert first_line(MemoryError()) == "MemoryError"
