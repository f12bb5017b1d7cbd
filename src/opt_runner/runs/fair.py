"""A fair comparison: every entrant is tuned by the same search, then trained with what it found.

An entrant is one combination of the command line's values, as a method on a network. Its search
trains on a part of the training images, for a share of the budget, and minimises the error on the
images that are held back. Its best setting is then trained on all training images, for the whole
budget, with other seeds. The test images are looked at once, after that.
"""

import hashlib
import itertools
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from pydantic import Field

from opt_runner.config.components import target
from opt_runner.config.options import SweeperOptions
from opt_runner.config.schema import Config, Role, of_roles
from opt_runner.console import wandb
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.files import CannotWrite, locked
from opt_runner.launch.source import Source
from opt_runner.records import tuned
from opt_runner.records.search import words
from opt_runner.report.trials import settings_table
from opt_runner.runs import conduct as grid
from opt_runner.runs import plan, search
from opt_runner.runs.run import Run
from opt_runner.runs.search import Runner
from opt_runner.runs.space import Space, values_of
from opt_runner.runs.space import parse as parse_space
from opt_runner.runs.study import open_study
from opt_runner.runs.sweep import Sweep
from opt_runner.runs.trials import Trials
from opt_runner.runs.watch import watched

_START = 10  # trials before the sampler goes by what it has learned

Launch = Callable[[Sweep, Screen, Sequence[Run]], object]


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


def conduct(command: Command, options: Options, runner: Runner, launch: Launch) -> int:
    """Tune every entrant, or go on with that; then train what was found. Returns the exit code.

    launch: has runs of a sweep executed; see `conduct.conduct`. Raises UserError, before anything
    starts, for a mistake.
    """
    entrants = [
        _entrant(label, words, command, options, runner)
        for label, words in zip(command.labels, command.entrants, strict=True)
    ]
    _check(entrants, command, options, runner)
    first = entrants[0].example
    parallel = search.at_once(options.parallel, runner.at_once(first))
    name = _name(entrants, options, runner)
    folder = Path(options.storage) / name
    search.make(folder)
    sweep = Sweep([trial_run(entrants[0], runner)], asked=1, here=runner.here, name=name)
    screen = runner.screen(first)
    with locked(folder / "lock", partial(search.busy, name)):
        searches = [
            _search(entrant, options, runner, sweep, folder / _own(entrant.label), screen)
            for entrant in entrants
        ]
        _show_plan(entrants, searches, command, options, runner, sweep, parallel, screen)
        os.environ[wandb.SWEEP_VARIABLE] = sweep.id
        code = grid.worked(
            sweep,
            partial(_tune, searches, runner, sweep, parallel, screen),
            partial(_tell, searches, screen),
            screen,
            "the same command",
        )
        if code:
            return code
        settings = _settings(searches)
        runs = _best_runs(entrants, settings, command, options, runner)
        signatures = {label: [run.signature for run in ones] for label, ones in runs.items()}
        try:
            tuned.keep(folder, settings, signatures)
        except CannotWrite as error:
            screen.fail(str(error))
            return 1
    final = Sweep(_in_order(runs), asked=sum(map(len, runs.values())), here=runner.here)
    code = grid.conduct(final, partial(launch, final, screen), screen)
    return code or int(len(runs) < len(entrants))


def _entrant(
    label: str, fixed: Sequence[str], command: Command, options: Options, runner: Runner
) -> Entrant:
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


def _check(entrants: Sequence[Entrant], command: Command, options: Options, runner: Runner) -> None:
    """Raises UserError where a run with one of the seeds or conditions could not be compared: not
    after hours of searching."""
    for condition in options.conditions:
        for entrant in entrants:
            config = _final_run(entrant, [], condition, command.seeds[0], runner).config
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


def _final_run(
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


def _name(entrants: Sequence[Entrant], options: Options, runner: Runner) -> str:
    """The same for the same entrants, searches and trials' runs."""
    parts = [search.digest(one.space, trial_run(one, runner), options.seed) for one in entrants]
    return f"fair-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:8]}"


def _own(label: str) -> str:
    """The folder of an entrant: its label, where that names one folder and no other entrant's."""
    if re.fullmatch(r"\w[\w.=]*( \w[\w.=]*)*|\w[\w.=-]*", label) and len(label) < 100:
        return label.replace(" ", "-")
    readable = re.sub(r"[^\w.=]", "-", label)[:60].lstrip(".")
    return f"{readable}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def _search(
    entrant: Entrant, options: Options, runner: Runner, sweep: Sweep, folder: Path, screen: Screen
) -> Trials:
    search.make(folder)
    study = open_study(folder, folder.name, "none")
    trials = Trials(
        study, entrant.space, runner.run, options.trials, options.seed, sweep, folder, screen,
        entrant.label,
    )  # fmt: skip
    if trials.left:
        _enqueue(entrant.start(options.trials, options.seed), study)
    return trials


def _enqueue(points: Sequence[dict[str, Any]], study: optuna.Study) -> None:
    """Have these points tried next, but for those that trials have. One that failed says nothing
    of its point, nor does one that a kill left half drawn."""
    tried = [
        trial.system_attrs.get("fixed_params")
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.FAIL
    ]
    for point in points:
        if point not in tried:
            study.enqueue_trial(point)


def _show_plan(
    entrants: Sequence[Entrant],
    searches: Sequence[Trials],
    command: Command,
    options: Options,
    runner: Runner,
    sweep: Sweep,
    parallel: int,
    screen: Screen,
) -> None:
    settled, left = sum(one.settled for one in searches), sum(one.left for one in searches)
    final = len(entrants) * len(command.seeds) * len(options.conditions)
    screen.say(
        f"plan: {sweep.id}: {len(entrants)} entrants, each with {options.trials} trials of "
        f"{options.share:.0%} of the budget on {1 - options.validation:.0%} of the training images "
        f"({settled} settled, {left} left), {parallel} at once; then {final} runs: "
        f"{len(entrants)} entrants x {len(command.seeds)} seeds"
        + (f" x {len(options.conditions)} conditions" if len(options.conditions) > 1 else "")
    )
    if sweep.here and entrants[0].example.config.plan.measure:
        for entrant, trials in zip(entrants, searches, strict=True):
            if trials.left:
                plan.show_cost(trial_run(entrant, runner), trials.left, screen)
    for entrant in entrants:
        searched = " ".join(f"{key}={text}" for key, text in entrant.space.written.items())
        screen.say(f"  {entrant.label}: {searched}")


def _tune(
    searches: Sequence[Trials], runner: Runner, sweep: Sweep, parallel: int, screen: Screen
) -> None:
    open_ = [one for one in searches if one.left]
    if not open_:
        return
    source = Chain(open_)
    with watched(sweep, [], screen, lambda: sum(one.to_come for one in open_)) as begin:

        def serve() -> None:
            runner.serve(sweep, screen, source, min(parallel, sum(one.left for one in open_)))

        _nested(open_, serve, begin)


def _nested(
    searches: Sequence[Trials], serve: Callable[[], None], begin: Callable[[Run], None]
) -> None:
    """`serve` within the `execute` of all of them."""
    if not searches:
        serve()
    else:
        searches[0].execute(partial(_nested, searches[1:], serve, begin), begin)


class Chain:
    """Sources one after the other, so that no slot waits for the last trials of a search."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._owners: dict[int, Source] = {}  # by the id of a run: two searches may make the same

    def take(self) -> Run | None:
        for source in self._sources:
            run = source.take()
            if run is not None:
                self._owners[id(run)] = source
                return run
        return None

    def ended(self, run: Run) -> None:
        self._owners.pop(id(run)).ended(run)


def _tell(searches: Sequence[Trials], screen: Screen, done: bool) -> int:
    """Show the best setting of each entrant; returns the exit code."""
    records = [trials.record() for trials in searches]
    for trials, record in zip(searches, records, strict=True):
        record.write(trials.folder)
        if not trials.left and not record.ranked():
            screen.fail(f"{trials.label}: all trials diverged; it is not compared")
        if trials.stopped is not None:
            screen.fail(f"{trials.label}: {trials.stopped}")
    screen.show(settings_table(records))
    found = any(record.ranked() for record in records)
    return 0 if found and not any(trials.left for trials in searches) else 1


def _settings(searches: Sequence[Trials]) -> dict[str, list[str]]:
    """The best setting of each entrant, by label, where one of its trials has finished."""
    return {
        trials.label: words(best.parameters)
        for trials in searches
        for best in trials.record().ranked()[:1]
    }


def _best_runs(
    entrants: Sequence[Entrant],
    settings: Mapping[str, Sequence[str]],
    command: Command,
    options: Options,
    runner: Runner,
) -> dict[str, list[Run]]:
    """By label, the runs of an entrant condition by condition, seed by seed."""
    return {
        entrant.label: [
            _final_run(entrant, settings[entrant.label], condition, seed, runner)
            for condition in options.conditions
            for seed in command.seeds
        ]
        for entrant in entrants
        if entrant.label in settings
    }


def _in_order(runs: Mapping[str, Sequence[Run]]) -> list[Run]:
    """Each once, those of one condition and seed together: a cut leaves whole comparisons."""
    every = (run for together in zip(*runs.values(), strict=True) for run in together)
    return list({run.signature: run for run in every}.values())
