"""Samples: how to take them, their median and their quartiles. Times are wall times in seconds.

A machine's speed drifts by more than the differences to be measured, so only samples taken next to
each other are compared.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import truediv
from typing import Self, TypeVar

import numpy as np
import torch

T = TypeVar("T")

# Takes one sample: seconds a call.
Sampler = Callable[[], float]


@dataclass(frozen=True)
class Task:
    """A function to time. `prepare` runs before each sample, untimed."""

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


def sampler(task: Task, device: torch.device, shortest: float = 0.0) -> Sampler:
    """Run the task once or twice to warm up, and return a function that samples it.

    shortest: the least seconds of a sample, filled by calls in a row.
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
class Summary:
    """Median and quartiles of n samples: robust against other load, where a mean is not."""

    n: int
    median: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, samples: Iterable[float]) -> Self:
        """Summarise samples. Raises ValueError if there are none."""
        values = list(samples)
        if not values:
            raise ValueError("no samples to summarise")
        lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75])
        return cls(len(values), float(median), float(lower), float(upper))

    def text(self, scale: float = 1.0) -> str:
        """Return `median [lower quartile, upper quartile]`, each times `scale`."""
        values = (self.median, self.lower_quartile, self.upper_quartile)
        middle, low, high = (figure(scale * value) for value in values)
        return f"{middle} [{low}, {high}]"


def paired(
    baseline: Sampler, samplers: Mapping[str, Sampler], samples: int
) -> dict[str, dict[str, Summary]]:
    """Take `samples` samples of each, in the order baseline, first, baseline, second, baseline.

    Returns summaries by name: `seconds`, `standard_seconds` of the baseline, and the `ratio` of a
    sample to the mean of the baseline's samples right before and right after it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    beside: dict[str, list[float]] = {name: [] for name in samplers}
    before = baseline()
    for _ in range(samples):
        for name, take in samplers.items():
            seconds[name].append(take())
            after = baseline()
            beside[name].append((before + after) / 2)
            before = after
    return {
        name: {
            "ratio": Summary.of(map(truediv, seconds[name], beside[name])),
            "seconds": Summary.of(seconds[name]),
            "standard_seconds": Summary.of(beside[name]),
        }
        for name in samplers
    }


def interleaved(
    samplers: Mapping[str, Sampler], samples: int, budget: float = math.inf
) -> dict[str, list[float]]:
    """Take `samples` samples of each, one of every sampler in turn.

    budget: stop sampling a task after so many seconds, but never before three samples.
    """
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    for done in range(samples):
        for name, take in samplers.items():
            if done < 3 or sum(seconds[name]) < budget:
                seconds[name].append(take())
    return seconds


def figure(value: float) -> str:
    """Return `value` with three significant digits and no exponent: 0.00123, 1.23, 12,345."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def attempted(makers: Mapping[str, Callable[[], T]]) -> tuple[dict[str, T], dict[str, str]]:
    """Call each function; return the results by name, and the errors of those that failed.

    Some forms do not run on every device, and some sizes do not fit its memory.
    """
    made: dict[str, T] = {}
    errors: dict[str, str] = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except Exception as error:
            line, _, _ = str(error).strip().partition("\n")
            errors[name] = f"{type(error).__name__}: {line}"
    return made, errors
