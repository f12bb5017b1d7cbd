"""What a search draws from, as it stands on the command line in Hydra's grammar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from opt_runner.errors import UserError
from opt_runner.records.search import words

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# A search for these would compare errors on other images.
_NOT_SEARCHED = (
    "dataset",
    "dataset.validation",
    "dataset.validation_seed",
    "dataset.share",
    "dataset.label_noise",
)
_FORMS = "KEY=a,b,c or KEY=range(1,5) or KEY=interval(0,1) or KEY=tag(log,interval(0.01,1))"


@dataclass(frozen=True)
class Space:
    """distributions: by key. written: the same as on the command line. fixed: the other overrides.
    seeds: the overrides of the runs of a trial, whose mean it is; one that is empty where the
    command line gives no seed."""

    distributions: "dict[str, BaseDistribution]"
    written: dict[str, str]
    fixed: list[str]
    seeds: list[list[str]]

    def overrides(self, parameters: Mapping[str, Any], seed: Sequence[str]) -> list[str]:
        """What makes a run."""
        return [*self.fixed, *words(parameters), *seed]

    def first(self) -> dict[str, Any]:
        """The first choice and the lowest value of every parameter."""
        return {key: _values(one)[0] for key, one in self.distributions.items()}

    def contains(self, key: str, value: Any) -> bool:
        """Whether a value of the config is one that the search may try."""
        from optuna.distributions import CategoricalDistribution

        one = self.distributions[key]
        if isinstance(one, CategoricalDistribution):
            return _word(value) in one.choices
        return isinstance(value, int | float) and one.low <= value <= one.high  # type: ignore[attr-defined]

    def as_drawn(self, key: str, value: Any) -> Any:
        """A value of the config as the search draws it: choices are words."""
        from optuna.distributions import CategoricalDistribution

        return (
            _word(value) if isinstance(self.distributions[key], CategoricalDistribution) else value
        )

    def spread(self, count: int, seed: int) -> list[dict[str, Any]]:
        """The first points of a scrambled Halton sequence."""
        from scipy.stats.qmc import Halton

        points = Halton(len(self.distributions), rng=seed).random(count)
        return [
            {
                key: _at(one, float(u))
                for (key, one), u in zip(self.distributions.items(), point, strict=True)
            }
            for point in points
        ]

    def ends(self) -> list[dict[str, Any]]:
        """Every choice, and the highest value, of one parameter with the first of all others."""
        first = self.first()
        return [
            first | {key: value}
            for key, one in self.distributions.items()
            for value in _values(one)[1:]
        ]


def parse(overrides: Sequence[str]) -> Space:
    """Of a key given twice the last counts.

    Raises UserError, and HydraException for bad grammar.
    """
    seeds: list[list[str]] = [[]]
    fixed, written = [], {}
    distributions: dict[str, BaseDistribution] = {}
    for key, override in _by_key(overrides).items():
        if key == "seed":
            seeds = [[f"seed={seed}"] for seed in _seeds(override)]
        elif not override.is_sweep_override():
            fixed.append(f"{key}={override.get_value_element_as_str()}")
        elif key in _NOT_SEARCHED:
            raise UserError(
                f"{override.input_line}: a search is of one dataset and one split of it"
            )
        else:
            distributions[key] = _distribution(override)
            assert override.input_line is not None
            written[key] = override.input_line.partition("=")[2]
    if not distributions:
        raise UserError(f"nothing to search: give at least one key as {_FORMS}")
    return Space(distributions, written, fixed, seeds)


def values_of(overrides: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The words of each key's values, as `a=1` and `a=2` of a=1,2; and the overrides that have no
    values but an interval. Of a key given twice the last counts.

    Raises HydraException for bad grammar.
    """
    values: dict[str, list[str]] = {}
    intervals = []
    for key, override in _by_key(overrides).items():
        if not override.is_sweep_override():
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            words = (f"{key}={value}" for value in override.sweep_string_iterator())
            values[key] = list(dict.fromkeys(words))
        else:
            assert override.input_line is not None
            intervals.append(override.input_line)
    return values, intervals


def _by_key(overrides: Sequence[str]) -> dict[str, Override]:
    """Of a key given twice the last. Raises HydraException for bad grammar."""
    parsed = OverridesParser.create().parse_overrides([*overrides])
    return {override.get_key_element(): override for override in parsed}


def _word(value: Any) -> str:
    """A value of the config as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _seeds(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise UserError(
            f"{override.input_line}: a search takes the mean over seeds, as seed=0,1,2, and does "
            "not search them"
        )
    return list(dict.fromkeys(override.sweep_string_iterator()))


def _distribution(override: Override) -> "BaseDistribution":
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            low, high = value.start, value.end
            assert low is not None
            assert high is not None
            if isinstance(low, int) and isinstance(high, int):
                return IntDistribution(low, high, _is_log(override, value.tags))
            return FloatDistribution(low, high, _is_log(override, value.tags))
        if isinstance(value, RangeSweep):
            numbers = sorted(value.range())
            if not numbers:
                raise ValueError("the range is empty")
            step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
            if isinstance(numbers[0], int):
                return IntDistribution(
                    numbers[0], int(numbers[-1]), _is_log(override, value.tags), int(step)
                )
            return FloatDistribution(numbers[0], numbers[-1], _is_log(override, value.tags), step)
        return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    except (ValueError, HydraException) as error:
        reason = str(error).rstrip(".")
        raise UserError(f"{override.input_line}: {reason}; write {_FORMS}") from error


def _is_log(override: Override, tags: set[str]) -> bool:
    if unknown := tags - {"log"}:
        raise UserError(f"{override.input_line}: no tag {min(unknown)!r}, the only one is log")
    return "log" in tags


def _at(distribution: "BaseDistribution", u: float) -> Any:
    """The value at the share 0 <= u < 1 of the range."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(u * len(distribution.choices))]
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    whole = isinstance(distribution, IntDistribution)
    if whole:
        high += 1
    value = low * (high / low) ** u if distribution.log else low + u * (high - low)  # type: ignore[attr-defined]
    return low + int(value - low) // distribution.step * distribution.step if whole else value  # type: ignore[attr-defined]


def _values(distribution: "BaseDistribution") -> list[Any]:
    from optuna.distributions import CategoricalDistribution

    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]  # type: ignore[attr-defined]
