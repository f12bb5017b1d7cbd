"""Samples of one quantity: how they are taken, and their median and quartiles.

A machine's speed drifts by more than what is to be told apart: only samples taken next to each
other are compared. All times are wall times in seconds. On CUDA a sample starts and ends with an
idle GPU; within it the host runs ahead, as it does in training.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeVar

import numpy as np
import torch

T = TypeVar("T")

# Takes one sample: seconds a call.
Sampler = Callable[[], float]


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Task:
    """What is timed: `run`. `prepare` comes before each sample of it and is not timed."""

    run: Callable[[], object]
    prepare: Callable[[], object] = _nothing


def sampler(task: Task, device: torch.device, shortest: float = 0.0) -> Sampler:
    """What samples the task, which is run once or twice here to warm up.

    shortest: seconds that a sample lasts at least, by as many calls in a row as that takes.
    """
    _sample(task, device, calls=1)
    calls = math.ceil(shortest / _sample(task, device, calls=1)) if shortest else 1
    return partial(_sample, task, device, calls)


def _sample(task: Task, device: torch.device, calls: int) -> float:
    task.prepare()
    _wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        task.run()
    _wait(device)
    return (time.perf_counter() - started) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Pair:
    """A sample, and the mean of the baseline's samples right before and right after it."""

    seconds: float
    baseline: float

    @property
    def ratio(self) -> float:
        return self.seconds / self.baseline


def paired(
    baseline: Sampler, samplers: Mapping[str, Sampler], samples: int
) -> dict[str, list[Pair]]:
    """So many pairs of each, in the order baseline, first, baseline, second, ..., baseline.

    A sample of the baseline between two others serves both.
    """
    pairs: dict[str, list[Pair]] = {name: [] for name in samplers}
    before = baseline()
    for _ in range(samples):
        for name, take in samplers.items():
            seconds = take()
            after = baseline()
            pairs[name].append(Pair(seconds, (before + after) / 2))
            before = after
    return pairs


def interleaved(
    samplers: Mapping[str, Sampler], samples: int, budget: float = math.inf
) -> dict[str, list[float]]:
    """So many samples of each, one of every in turn.

    budget: what took so many seconds together is sampled no more, but three times in any case.
    """
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    for done in range(samples):
        for name, take in samplers.items():
            if done < 3 or sum(seconds[name]) < budget:
                seconds[name].append(take())
    return seconds


@dataclass(frozen=True)
class Summary:
    """Half of the n samples lie between the quartiles. The median is robust against what else the
    machine did, where a mean is not."""

    n: int
    median: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, samples: Iterable[float]) -> Self:
        """Raises ValueError where there are no samples."""
        values = list(samples)
        if not values:
            raise ValueError("no samples to summarise")
        lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75])
        return cls(len(values), float(median), float(lower), float(upper))

    def text(self, scale: float = 1.0, digits: int = 3) -> str:
        """`median [lower quartile, upper quartile]`, each times `scale`."""
        low, middle, high = (
            figure(scale * value, digits)
            for value in (self.lower_quartile, self.median, self.upper_quartile)
        )
        return f"{middle} [{low}, {high}]"


def figure(value: float, digits: int = 3) -> str:
    """`value` to so many significant digits, without an exponent: 0.00123, 1.23, 12,345."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, decimals)}f}"


def attempted(makers: Mapping[str, Callable[[], T]]) -> tuple[dict[str, T], dict[str, str]]:
    """What can be made, by name, and the error in a line of what cannot.

    Not every form runs on every device, nor has every size room in its memory.
    """
    made: dict[str, T] = {}
    errors: dict[str, str] = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except Exception as error:
            errors[name] = first_line(error)
    return made, errors


def first_line(error: BaseException) -> str:
    """`Type: message` of an error, the first line of it, for a table."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
