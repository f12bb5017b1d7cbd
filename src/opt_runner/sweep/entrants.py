"""Who takes part in a fair comparison: what of each is searched, and the runs that come of it."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from opt_runner.config.components import target
from opt_runner.config.options import SweeperOptions
from opt_runner.config.schema import Config, Role, of_roles
from opt_runner.errors import UserError
from opt_runner.run.run import Run
from opt_runner.sweep.search import Runner
from opt_runner.sweep.space import Space, values_of
from opt_runner.sweep.space import parse as parse_space

_START = 10  # trials before the sampler goes by what it has learned


class Options(SweeperOptions):
    """The keys of conf/hydra/sweeper/fair.yaml."""

    trials: int = Field(gt=0)
    share: float = Field(gt=0, le=1)
    validation: float = Field(gt=0, le=0.5)
    trial_seed: int = Field(ge=0, lt=2**31)
    conditions: tuple[str, ...] = Field(min_length=1)
    parallel: int | None = Field(gt=0)
    seed: int = Field(ge=0, lt=2**31)
    storage: str = Field(min_length=1)


@dataclass(frozen=True)
class Entrant:
    """fixed: the words that make it. label: those of them that tell it from the others. space: what
    is searched. example: its run with the first seed, all else as the config says."""

    label: str
    fixed: Sequence[str]
    space: Space
    example: Run

    def recipe(self) -> dict[str, Any]:
        """Of the setting that the config has by itself, what lies in the space."""
        found = {key: _value(self.example.config, key) for key in self.space.distributions}
        return {
            key: self.space.as_drawn(key, value)
            for key, value in found.items()
            if self.space.contains(key, value)
        }

    def start(self, count: int, seed: int) -> list[dict[str, Any]]:
        """What the first trials try: the recipe, then points of a scrambled Halton sequence, which
        fill the space evenly however few they are."""
        count = min(count, _START)
        return [self.recipe(), *self.space.spread(count - 1, seed)]


@dataclass(frozen=True)
class Command:
    """What the command line asks for: `entrants`, each a list of words, and the words of each seed.
    searched: parameters that are searched for every entrant, over what its method says."""

    entrants: Sequence[Sequence[str]]
    labels: Sequence[str]
    seeds: Sequence[str]
    searched: Sequence[str]


def parse(overrides: Sequence[str]) -> Command:
    """`KEY=a,b` makes entrants, `seed=0,1` seeds, `KEY=interval(a,b)` is searched.

    Raises UserError, and HydraException for bad grammar.
    """
    values, searched = values_of(overrides)
    seeds = values.pop("seed", ["seed=0"])
    several = [key for key, words in values.items() if len(words) > 1]
    entrants, labels = [], []
    for combination in itertools.product(*values.values()):
        entrants.append(combination)
        named = dict(zip(values, combination, strict=True))
        labels.append(" ".join(named[key].partition("=")[2] for key in several) or "all")
    return Command(entrants, labels, seeds, searched)


def entrant_of(
    label: str, fixed: Sequence[str], command: Command, options: Options, runner: Runner
) -> Entrant:
    """Raises UserError for what cannot be searched."""
    example = runner.run([*fixed, command.seeds[0]])
    config = example.config
    if config.dataset.validation:
        raise UserError(
            "a fair comparison holds back hydra.sweeper.validation of the training images for the "
            "search alone: leave out dataset.validation"
        )
    if config.rerun:
        raise UserError(
            "rerun=true does not go with a search: experiment_name=NAME starts another comparison"
        )
    own = getattr(target(config.method, "method"), "search", {})
    # What the command line fixes is not searched.
    given = {word.partition("=")[0] for word in (*fixed, *command.searched)}
    searched = [f"{key}={values}" for key, values in own.items() if key not in given]
    trial = [
        *fixed,
        *_trial_budget(config, options.share),
        f"dataset.validation={options.validation}",
        "evaluate.test=never",
        f"experiment_name={config.experiment_name}_search",
        f"seed={options.trial_seed}",
    ]
    space = parse_space([*trial, *command.searched, *searched])
    for parameters in [space.first(), *space.ends()]:  # a mistake in them shows now
        runner.run(space.overrides(parameters, space.seeds[0]))
    return Entrant(label, fixed, space, example)


def _trial_budget(config: Config, share: float) -> list[str]:
    if config.budget.steps is not None:
        return [f"budget.steps={max(1, round(share * config.budget.steps))}"]
    assert config.budget.epochs is not None
    return [f"budget.epochs={share * config.budget.epochs:.6g}"]


def check(entrants: Sequence[Entrant], command: Command, options: Options, runner: Runner) -> None:
    """Raises UserError where a run with one of the seeds or conditions could not be compared: not
    after hours of searching."""
    for condition in options.conditions:
        for entrant in entrants:
            config = final_run(entrant, [], condition, command.seeds[0], runner).config
            same = _of_method(config) == _of_method(entrant.example.config)
            if not same or config.dataset.validation or config.rerun:
                raise UserError(
                    f"hydra.sweeper.conditions: {condition!r}: a condition changes the task, as "
                    "dataset.share=0.1 does, and neither the method, its optimizer and schedule, "
                    "nor dataset.validation and rerun"
                )
    for seed in command.seeds:
        if runner.run([*entrants[0].fixed, seed]).config.seed == options.trial_seed:
            raise UserError(
                f"{seed} is that of the trials: the comparison takes other seeds, or set "
                "hydra.sweeper.trial_seed"
            )


def _of_method(config: Config) -> dict[str, Any]:
    return of_roles(config.content, Role.METHOD)


def final_run(
    entrant: Entrant, setting: Sequence[str], condition: str, seed: str, runner: Runner
) -> Run:
    try:
        task = shlex.split(condition)
    except ValueError as error:
        raise UserError(f"hydra.sweeper.conditions: {condition!r}: {error}") from error
    return runner.run([*entrant.fixed, *setting, *task, "evaluate.test=last", seed])


def trial_run(entrant: Entrant, runner: Runner) -> Run:
    space = entrant.space
    return runner.run(space.overrides(space.first(), space.seeds[0]))


def _value(config: Config, key: str) -> Any:
    """Of a key as `method.scale`; R's learning rate is that of all else unless it is given."""
    value: Any = config.model_dump(by_alias=True)
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return config.optimizer.lr if value is None and key == "optimizer.rotation_lr" else value
