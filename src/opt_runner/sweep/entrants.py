"""The entrants of a fair comparison: the searched parameters and the runs of each."""

import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from opt_runner.config.components import target
from opt_runner.config.options import SweeperOptions
from opt_runner.config.overrides import assignments, by_key
from opt_runner.config.schema import Config, Role, of_roles
from opt_runner.datasets import Measure, measure_of
from opt_runner.errors import UserError
from opt_runner.records.search import SearchRecord, Trial
from opt_runner.records.stored import StoredRun
from opt_runner.run.run import Run
from opt_runner.sweep import plan
from opt_runner.sweep.space import Space, parse_space
from opt_runner.sweep.sweep import Sweep, refuse_leaving

if TYPE_CHECKING:
    from hydra_plugins.opt_runner.sweepers import RunSweeper


class ComparisonOptions(SweeperOptions):
    """Options of conf/hydra/sweeper/fair.yaml."""

    trials: int = Field(gt=0)
    share: float = Field(gt=0, le=1)
    validation: float = Field(gt=0, le=0.5)
    trial_seed: int = Field(ge=0, lt=2**31)
    conditions: tuple[str, ...] = Field(min_length=1)
    seed: int = Field(ge=0, lt=2**31)
    storage: str = Field(min_length=1)


@dataclass(frozen=True)
class Command:
    """The command line of a comparison.

    entrants: the label of each and its overrides. seeds: their overrides. searched: overrides with
    intervals, which are searched for every entrant.
    """

    entrants: Sequence[tuple[str, Sequence[str]]]
    seeds: Sequence[str]
    searched: Sequence[str]


@dataclass(frozen=True)
class Entrant:
    """An entrant: a method on a network.

    fixed: its overrides. space, points: those of its trials. trials: their runs.
    config: that of its final run with the first seed, before it is tuned.
    """

    label: str
    fixed: Sequence[str]
    space: Space
    config: Config
    points: Sequence[Mapping[str, Any]]
    trials: Sequence[Run]

    def record(self, sweep: Sweep) -> SearchRecord:
        """Return the trials as reports read them, from the records on disk."""
        measure = measure_of(self.trials[0].dataset)
        trials = [
            _trial(number, dict(point), run.signature, sweep.stored(run), measure)
            for number, (point, run) in enumerate(zip(self.points, self.trials, strict=True))
        ]
        return SearchRecord(sweep.id, dict(self.space.written), trials, self.label, measure)


def _trial(
    number: int, point: dict[str, Any], planned: str, found: StoredRun | None, measure: Measure
) -> Trial:
    result = found.result if found else None
    ended = result is not None and result.status in ("finished", "diverged", "failed")
    status = result.status if result and ended else "not finished"
    error = result.validation_error if result and status == "finished" else None
    return Trial(
        number=number,
        status=status,
        parameters=point,
        value=measure.worst if status == "diverged" else error,
        errors=[] if error is None else [error],
        runs=[found.signature if found else planned],
        reason=result.error if result else None,
    )


def parse_command(overrides: Sequence[str]) -> Command:
    """Return the comparison of a command line. Raises UserError for bad grammar.

    `KEY=a,b` makes entrants, `seed=0,1` seeds; `KEY=interval(a,b)` is searched.
    """
    parsed = by_key(overrides)
    searched = [str(o.input_line) for o in parsed.values() if o.is_interval_sweep()]
    values = {
        key: list(dict.fromkeys(assignments(override)))
        for key, override in parsed.items()
        if not override.is_interval_sweep()
    }
    seeds = values.pop("seed", ["seed=0"])
    entrants = []
    for fixed in itertools.product(*values.values()):
        several = [
            word for word, words in zip(fixed, values.values(), strict=True) if len(words) > 1
        ]
        entrants.append((" ".join(word.partition("=")[2] for word in several), fixed))
    return Command(entrants, seeds, searched)


def entrant_of(
    label: str,
    fixed: Sequence[str],
    command: Command,
    options: ComparisonOptions,
    runner: "RunSweeper",
) -> Entrant:
    """Return an entrant. Raises UserError if it cannot be tuned.

    label: empty for an entrant alone, which is called by its method's name.
    """
    config = runner.run([*fixed, command.seeds[0]]).config
    if config.dataset.validation:
        raise UserError(
            "a fair comparison holds back hydra.sweeper.validation of the training samples for the "
            "search alone: leave out dataset.validation"
        )
    refuse_leaving(config)
    if config.rerun:
        raise UserError(
            "rerun=true does not go with a search: experiment_name=NAME starts another comparison"
        )
    own = getattr(target(config.method, "method"), "search", {})
    of_optimizer = getattr(target(config.optimizer, "optimizer"), "search", {})
    own = {key: of_optimizer.get(key, values) for key, values in own.items()}
    # Values on the command line are not searched. The points depend on the order of the ranges:
    # those of the method come first, whether the command line has others for them or not.
    given = by_key(fixed)
    ranges = {key: f"{key}={values}" for key, values in own.items() if key not in given}
    searched = sorted(by_key(command.searched).items())
    ranges |= {key: str(override.input_line) for key, override in searched}
    space = parse_space(
        [
            *fixed,
            *_trial_budget(config, options.share),
            f"dataset.validation={options.validation}",
            "evaluate.test=never",
            f"experiment_name={config.experiment_name}_search",
            f"seed={options.trial_seed}",
            *ranges.values(),
        ]
    )
    for corner in space.corners():  # finds a mistake in a range
        runner.run(space.overrides(corner, space.seeds[0]))
    points = [_recipe(config, space), *space.spread(options.trials - 1, options.seed)]
    trials = [runner.run(space.overrides(point, space.seeds[0])) for point in points]
    return Entrant(label or config.method.name, fixed, space, config, points, trials)


def _recipe(config: Config, space: Space) -> dict[str, Any]:
    """Return the config's own values of the parameters.

    A value outside its range is replaced by the middle of the range. A null stays: it leaves the
    value to the method.
    """
    recipe: dict[str, Any] = {}
    for key, parameter in space.parameters.items():
        value = _value(config, key)
        near = parameter.nearest(value)
        if near is not None or value is not None:
            recipe[key] = parameter.at(0.5) if near is None else near
    return recipe


def _trial_budget(config: Config, share: float) -> list[str]:
    if config.budget.steps is not None:
        return [f"budget.steps={max(1, round(share * config.budget.steps))}"]
    assert config.budget.epochs is not None
    return [f"budget.epochs={share * config.budget.epochs:.6g}"]


def check(
    entrants: Sequence[Entrant], command: Command, options: ComparisonOptions, runner: "RunSweeper"
) -> None:
    """Raise UserError if a run with one of the seeds or conditions cannot be compared or set up.

    Call it before the search, which may take hours.
    """
    conditions: dict[str, Run] = {}
    for condition in options.conditions:
        for entrant in entrants:
            run = final_run(entrant, [], condition, command.seeds[0], runner)
            config = run.config
            own, others = (of_roles(c.content, Role.METHOD) for c in (config, entrant.config))
            replaced = by_key(shlex.split(condition)).keys() & {"seed", "evaluate.test"}
            if own != others or config.dataset.validation or config.rerun or replaced:
                raise UserError(
                    f"hydra.sweeper.conditions: {condition!r}: a condition changes keys that all "
                    "methods share, as dataset.share=0.1 does, and neither the method, its "
                    "optimizer and schedule, nor dataset.validation, evaluate.test, seed and rerun"
                )
            conditions.setdefault(json.dumps(of_roles(config.content, Role.TABLE)), run)
    for seed in command.seeds:
        if runner.run([*entrants[0].fixed, seed]).config.seed == options.trial_seed:
            raise UserError(
                f"{seed} is the seed of the trials: the comparison takes other seeds, or set "
                "hydra.sweeper.trial_seed"
            )
    if runner.here:
        # With a condition there may be fewer images than in a batch.
        for run in conditions.values():
            plan.try_set_up(run)


def final_run(
    entrant: Entrant, setting: Sequence[str], condition: str, seed: str, runner: "RunSweeper"
) -> Run:
    """Return the run of an entrant with a setting, under a condition."""
    try:
        overrides = shlex.split(condition)
    except ValueError as error:
        raise UserError(f"hydra.sweeper.conditions: {condition!r}: {error}") from error
    return runner.run([*entrant.fixed, *setting, *overrides, "evaluate.test=last", seed])


def _value(config: Config, key: str) -> Any:
    """Look up a dotted key. optimizer.rotation_lr falls back to optimizer.lr."""
    value: Any = config.model_dump(by_alias=True)
    for part in key.lstrip("+").split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return config.optimizer.lr if value is None and key == "optimizer.rotation_lr" else value
