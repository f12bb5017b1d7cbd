"""The space of a search, written in Hydra's grammar on the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from opt_runner.config.overrides import assignments, by_key, parse
from opt_runner.errors import UserError
from opt_runner.records.search import words

# Searched, these would compare errors on different samples.
_NOT_SEARCHED = (
    "dataset",
    "dataset.validation",
    "dataset.validation_seed",
    "dataset.share",
    "dataset.label_noise",
)
_FORMS = "KEY=a,b,c or KEY=range(1,5) or KEY=interval(0,1) or KEY=tag(log,interval(0.01,1))"


@dataclass(frozen=True)
class Choices:
    """Values of a parameter as words of the command line."""

    values: tuple[str, ...]

    def at(self, u: float) -> str:
        """Return the value at the share 0 <= u < 1 of the list."""
        return self.values[int(u * len(self.values))]

    def nearest(self, value: Any) -> str | None:
        """Return the word for a value of a config, None if it is not a choice."""
        for word in self.values:
            choice = parse(f"key={word}").value()
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return word
        return str(value) if str(value) in self.values else None


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included. step: their distance; None: all real numbers."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("the range begins above its end")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range must begin above 0")
        if self.log and self.step not in (None, 1):
            raise ValueError("a logarithmic range takes no step")

    @property
    def values(self) -> tuple[float, ...]:
        return (self.low, self.high)

    def at(self, u: float) -> float:
        """Return the number at the share 0 <= u < 1 of the range."""
        low, high = self.low, self.high + (self.step or 0)  # so that the last number has its share
        value: float = low * (high / low) ** u if self.log else low + u * (high - low)
        if self.step is None:
            return value
        return min(self.high, low + int((value - low) / self.step) * self.step)

    def nearest(self, value: Any) -> float | None:
        """Return a value of a config if it lies in the range, else None."""
        inside = isinstance(value, int | float) and self.low <= value <= self.high
        return value if inside else None


@dataclass(frozen=True)
class Space:
    """The space of a search.

    parameters: by key. written: the parameters as on the command line. fixed: the other overrides.
    seeds: the overrides of the runs of a trial; one empty override if the command line gives none.
    """

    parameters: Mapping[str, Choices | Range]
    written: Mapping[str, str]
    fixed: Sequence[str]
    seeds: Sequence[Sequence[str]]

    def overrides(self, values: Mapping[str, Any], seed: Sequence[str]) -> list[str]:
        """Return the overrides of a run with these values of the parameters."""
        return [*self.fixed, *words(values), *seed]

    def corners(self) -> list[dict[str, Any]]:
        """Return points to check.

        The first one has the first value of every parameter. Each other one replaces one of
        these by another choice or the highest number.
        """
        first = {key: one.values[0] for key, one in self.parameters.items()}
        others = [(key, v) for key, one in self.parameters.items() for v in one.values[1:]]
        return [first, *(first | {key: value} for key, value in others)]

    def spread(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Return the first points of a scrambled Halton sequence, which fill the space evenly."""
        from scipy.stats.qmc import Halton  # slow to import; only fair comparisons need it

        keys = list(self.parameters)
        points = Halton(len(keys), rng=seed).random(count)
        return [
            {key: self.parameters[key].at(float(u)) for key, u in zip(keys, point, strict=True)}
            for point in points
        ]


def parse_space(overrides: Sequence[str]) -> Space:
    """Return the space that a command line asks for. Raises UserError for a mistake.

    If a key is given twice, the last value is used.
    """
    seeds: list[list[str]] = [[]]
    fixed, written = [], {}
    parameters: dict[str, Choices | Range] = {}
    for key, override in by_key(overrides).items():
        if key == "seed":
            if override.is_interval_sweep():
                raise UserError(
                    f"{override.input_line}: a search takes the mean over seeds (seed=0,1,2) "
                    "and does not search them"
                )
            seeds = [[seed] for seed in dict.fromkeys(assignments(override))]
        elif not override.is_sweep_override():
            fixed += assignments(override)
        elif key in _NOT_SEARCHED:
            raise UserError(f"{override.input_line}: a search has one dataset and one split of it")
        else:
            name = override.get_key_element()
            parameters[name] = _parameter(override)
            written[name] = str(override.input_line).partition("=")[2]
    if not parameters:
        raise UserError(f"nothing to search: give at least one key as {_FORMS}")
    return Space(parameters, written, fixed, seeds)


def _parameter(override: Override) -> Choices | Range:
    value = override.value()
    if not isinstance(value, IntervalSweep | RangeSweep):
        found = (word.partition("=")[2] for word in assignments(override))
        return Choices(tuple(dict.fromkeys(found)))
    try:
        if unknown := value.tags - {"log"}:
            raise ValueError(f"no tag {min(unknown)!r}, the only one is log")
        log = "log" in value.tags
        if isinstance(value, IntervalSweep):
            low, high = value.start, value.end
            assert low is not None
            assert high is not None
            whole = isinstance(low, int) and isinstance(high, int)
            return Range(low, high, log, 1) if whole else Range(float(low), float(high), log)
        count = len([*value.range()])
        if not count:
            raise ValueError("the range is empty")
        # In decimals, as 0.1 + 2 * 0.2 is not 0.5 in floats, and Optuna would drop the last value.
        start, step = Decimal(str(value.start)), Decimal(str(value.step))
        first, last = sorted((start, start + (count - 1) * step))
        number = int if all(isinstance(end, int) for end in (value.start, value.step)) else float
        return Range(number(first), number(last), log, abs(number(step)))
    except ValueError as error:
        raise UserError(f"{override.input_line}: {error}; write {_FORMS}") from error
