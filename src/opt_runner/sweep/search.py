"""A search: trials that Optuna draws, each the mean over the runs of its seeds.

The validation error after the last step is minimised; no test error is looked at before the search
tells of its best trial. The study is on disk: the same command goes on after any cut.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from optuna.distributions import distribution_to_json
from pydantic import Field

from opt_runner.config.options import SweeperOptions
from opt_runner.config.schema import Config
from opt_runner.console import wandb
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.files import locked
from opt_runner.records.search import Trial, words
from opt_runner.report import trials as report
from opt_runner.report.wandb import log_tables
from opt_runner.run.run import Run
from opt_runner.sweep import plan
from opt_runner.sweep.conduct import say_where, show_tables, worked
from opt_runner.sweep.source import Source
from opt_runner.sweep.space import Space
from opt_runner.sweep.study import Pruning, open_study
from opt_runner.sweep.sweep import Sweep
from opt_runner.sweep.trials import Trials
from opt_runner.sweep.watch import watched


class Options(SweeperOptions):
    """The keys of conf/hydra/sweeper/optuna.yaml."""

    trials: int = Field(gt=0)
    parallel: int | None = Field(gt=0)
    seed: int = Field(ge=0, lt=2**31)
    pruning: Pruning
    study: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    storage: str = Field(min_length=1)


class Runner(Protocol):
    """Composes runs and has a launcher execute them. here: on this machine."""

    here: bool

    def run(self, overrides: Sequence[str]) -> Run:
        """Raises UserError, and Hydra's and OmegaConf's exceptions for a mistake."""
        ...

    def screen(self, run: Run) -> Screen:
        """The screen of a search of runs like this one."""
        ...

    def at_once(self, run: Run) -> int | None:
        """How many runs like this one the launcher has room for; None: it does not say."""
        ...

    def serve(self, sweep: Sweep, screen: Screen, source: Source, at_once: int) -> None:
        """Returns once all runs of the source have ended."""


def conduct(space: Space, options: Options, runner: Runner) -> int:
    """Search, or go on with it, and tell of all of it.

    Returns the exit code: 0 all trials are there, 1 it stopped before, 130 or 143 interrupted.
    Raises UserError, before anything starts, for what cannot be searched.
    """
    example = runner.run(space.overrides(space.first(), space.seeds[0]))
    _check(example.config)
    for parameters in space.ends():  # a mistake in them shows now
        runner.run(space.overrides(parameters, space.seeds[0]))
    parallel = at_once(options.parallel, runner.at_once(example))
    name = _name(space, options, example)
    folder = Path(options.storage) / name
    make(folder)
    sweep = Sweep([example], asked=1, here=runner.here, name=name)
    screen = runner.screen(example)
    with locked(folder / "lock", partial(busy, name)):
        study = open_study(folder, name, options.pruning)
        trials = Trials(
            study, space, runner.run, options.trials, options.seed, sweep, folder, screen
        )
        return _conduct(trials, runner, parallel)


def _check(config: Config) -> None:
    if not config.dataset.validation:
        raise UserError(
            "a search minimises the validation error, never the test error: hold training images "
            "back for it, as dataset.validation=0.1"
        )
    if config.rerun:
        raise UserError(
            "rerun=true does not go with a search: hydra.sweeper.study=NAME starts another one"
        )


def at_once(asked: int | None, room: int | None) -> int:
    """How many runs at once: as many as asked for, or as the launcher has room for."""
    parallel = asked or room
    if parallel is None:
        raise UserError(
            "hydra.sweeper.parallel=N must be given: this launcher does not say how many runs it "
            "has room for"
        )
    return parallel


def make(folder: Path) -> None:
    """Raises UserError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; set hydra.sweeper.storage=DIR"
        ) from error


def digest(space: Space, example: Run, *more: object) -> str:
    """Eight digits, the same for the same search: what it draws from, all else that changes its
    runs, and `more`."""
    content = [
        {key: distribution_to_json(one) for key, one in space.distributions.items()},
        space.seeds,
        *more,
        example.signature,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _name(space: Space, options: Options, example: Run) -> str:
    return f"{options.study}-{digest(space, example, options.seed, options.pruning)}"


def busy(name: str, holder: str) -> None:
    raise UserError(f"search {name} is under way: {holder} has it; wait for it to end")


def _conduct(trials: Trials, runner: Runner, parallel: int) -> int:
    sweep, screen, left = trials.sweep, trials.screen, trials.left
    example = sweep.runs[0]
    os.environ[wandb.SWEEP_VARIABLE] = sweep.id
    if example.config.note:
        screen.say(example.config.note)
    parallel = min(parallel, left)
    screen.say(
        f"plan: search {sweep.id}: {trials.count} trials: {trials.settled} settled, "
        f"{trials.begun} to go on with, {left - trials.begun} to draw; up to {parallel} at once"
    )
    if left and sweep.here and example.config.plan.measure:
        plan.show_cost(example, left * len(trials.space.seeds), screen)

    def work() -> None:
        if left:
            with watched(sweep, [], screen, lambda: trials.to_come) as begin:
                trials.execute(lambda: runner.serve(sweep, screen, trials, parallel), begin)

    return worked(sweep, work, partial(_tell, trials, runner), screen, "the same command")


def _tell(trials: Trials, runner: Runner, done: bool) -> int:
    """Show the best trials and, once all are there, of the very best what a grid shows: its test
    error is not for who may still search. Returns the exit code."""
    screen, record = trials.screen, trials.record()
    record.write(trials.folder)
    screen.say(report.counts(record))
    ranked = record.ranked()
    if ranked:
        screen.show(report.table(record))
        _tell_best(ranked[0], trials, runner, done)
    if trials.stopped is not None:
        screen.fail(trials.stopped)
    say_where(trials.sweep.runs[0].config, screen)
    return 0 if ranked and not trials.left else 1


def _tell_best(best: Trial, trials: Trials, runner: Runner, done: bool) -> None:
    sweep, screen, space = trials.sweep, trials.screen, trials.space
    runs = [runner.run(space.overrides(best.parameters, seed)) for seed in space.seeds]
    screen.say(f"best: trial {best.number}: {' '.join(words(best.parameters))}")
    screen.say(f"its first run: {runs[0].command}")
    if not trials.left:
        tables = show_tables([run for one in runs if (run := sweep.stored(one))], screen)
        if done:
            log_tables(runs[0].config, sweep.id, tables, screen)
