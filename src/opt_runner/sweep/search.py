"""A search: trials that Optuna draws, each the mean over the runs of its seeds.

It minimises the validation error after the last step. No test error is shown before all trials are
done. The study is on disk: the same command resumes it after any kill.
"""

import hashlib
import json
import os
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from opt_runner.config import titles
from opt_runner.config.options import SweeperOptions
from opt_runner.config.schema import Config
from opt_runner.datasets import measure_of
from opt_runner.errors import UserError, counted
from opt_runner.files import locked, make_folder
from opt_runner.records.search import Trial, words
from opt_runner.report import trials as report
from opt_runner.report.wandb import log_tables
from opt_runner.run.run import Run
from opt_runner.sweep import plan
from opt_runner.sweep.conduct import show_tables, show_where, work_and_report
from opt_runner.sweep.space import Space
from opt_runner.sweep.study import Pruning, open_study
from opt_runner.sweep.sweep import Sweep, refuse_leaving
from opt_runner.sweep.trials import Trials
from opt_runner.sweep.watch import watched

if TYPE_CHECKING:
    from hydra_plugins.opt_runner.sweepers import RunSweeper


class SearchOptions(SweeperOptions):
    """Options of conf/hydra/sweeper/optuna.yaml."""

    trials: int = Field(gt=0)
    parallel: int | None = Field(gt=0)
    seed: int = Field(ge=0, lt=2**31)
    pruning: Pruning
    study: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    storage: str = Field(min_length=1)


def conduct(space: Space, options: SearchOptions, runner: "RunSweeper") -> int:
    """Search, or resume a search, and report on it.

    Returns the exit code: 0 all trials are done, 1 some are not, 130 or 143 interrupted.
    Raises UserError, before anything starts, if the space cannot be searched.
    """
    corners = [runner.run(space.overrides(point, space.seeds[0])) for point in space.corners()]
    example = corners[0]
    _check(example.config)
    parallel = options.parallel or runner.at_once(example)
    if parallel is None:
        raise UserError(
            "hydra.sweeper.parallel=N must be given: this launcher does not say how many runs it "
            "executes at once"
        )
    digest = space_digest(space, example, options.seed, options.pruning)
    name = f"{options.study}-{digest}"
    folder = Path(options.storage) / name
    sweep = Sweep([], asked=0, here=runner.here, name=name, example=example.config)
    sweep.check_output()
    screen = runner.screen(example)
    with held(folder):
        study = open_study(folder, name, options.pruning)
        trials = Trials(
            study, space, runner.run, options.trials, options.seed, sweep, folder, screen,
            measure_of(example.dataset),
        )  # fmt: skip
        return _conduct(trials, example, runner, parallel)


def _check(config: Config) -> None:
    if not config.dataset.validation:
        raise UserError(
            "a search minimises the validation error, never the test error: hold training images "
            "back for it, such as dataset.validation=0.1"
        )
    refuse_leaving(config)
    if config.rerun:
        raise UserError(
            "rerun=true does not go with a search: hydra.sweeper.study=NAME starts another one"
        )


def held(folder: Path) -> AbstractContextManager[object]:
    """Make and hold the folder of a search. Raises UserError if another process has it."""
    make_folder(folder, "hydra.sweeper.storage")

    def busy(holder: str) -> None:
        raise UserError(f"search {folder.name} is under way: {holder} has it; wait for it to end")

    return locked(folder / "lock", busy)


def space_digest(space: Space, example: Run, *more: object) -> str:
    """Return eight digits, a hash of the space, of `more` and of other values of the runs."""
    parameters = {key: asdict(one) for key, one in space.parameters.items()}
    content = [parameters, space.seeds, *more, example.signature]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _conduct(trials: Trials, example: Run, runner: "RunSweeper", parallel: int) -> int:
    sweep, screen, left = trials.sweep, trials.screen, trials.left
    os.environ[titles.SWEEP_VARIABLE] = titles.sweep_variable(sweep.id, [], trials.space.parameters)
    if example.config.note:
        screen.say(example.config.note)
    parallel = min(parallel, left)
    screen.say(
        f"plan: search {sweep.id}: {counted(trials.count, 'trial')}: {trials.done} done, "
        f"{trials.begun} to resume, {left - trials.begun} to draw; up to {parallel} at once"
    )
    if left and sweep.here and example.config.plan.measure:
        plan.show_cost([[example] * left * len(trials.space.seeds)], screen)

    def work() -> None:
        if left:
            with watched(sweep, [], screen, lambda: trials.expected) as add:
                trials.execute(lambda: runner.serve(sweep, screen, trials, parallel), add)

    return work_and_report(sweep, work, partial(_report, trials, example, runner), screen)


def _report(trials: Trials, example: Run, runner: "RunSweeper", done: bool) -> int:
    """Show the best trials and, once all are done, the tables of the best one.

    Until then its test error is hidden. Returns the exit code.
    """
    screen, record = trials.screen, trials.record()
    record.write(trials.folder)
    screen.say(report.counts(record))
    ranked = record.ranked()
    if ranked:
        screen.show(report.table(record))
        _show_best(ranked[0], trials, runner, done)
    if trials.stopped is not None:
        screen.fail(trials.stopped)
    show_where(example.config, screen)
    return 0 if ranked and not trials.left else 1


def _show_best(best: Trial, trials: Trials, runner: "RunSweeper", done: bool) -> None:
    sweep, screen, space = trials.sweep, trials.screen, trials.space
    runs = [runner.run(space.overrides(best.parameters, seed)) for seed in space.seeds]
    screen.say(f"best: trial {best.number}: {' '.join(words(best.parameters))}")
    screen.say(f"its first run: {runs[0].command}")
    if not trials.left:
        tables = show_tables([run for one in runs if (run := sweep.stored(one))], screen)
        if done:
            log_tables(runs[0].config, sweep.id, tables, screen)
