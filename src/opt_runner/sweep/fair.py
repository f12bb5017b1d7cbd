"""A fair comparison: every entrant is tuned by the same search, then trained with what it found.

An entrant is one combination of the command line's values, as a method on a network. Its search
trains on a part of the training images, for a share of the budget, and minimises the error on the
images that are held back. Its best setting is then trained on all training images, for the whole
budget, with other seeds. The test images are looked at once, after that.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from opt_runner.console import wandb
from opt_runner.console.screen import Screen
from opt_runner.files import CannotWrite, locked
from opt_runner.records import tuned
from opt_runner.records.search import words
from opt_runner.report.trials import settings_table
from opt_runner.run.run import Run
from opt_runner.sweep import conduct as grid
from opt_runner.sweep import plan, search
from opt_runner.sweep.entrants import (
    Command,
    Entrant,
    Options,
    check,
    entrant_of,
    final_run,
    trial_run,
)
from opt_runner.sweep.search import Runner
from opt_runner.sweep.source import Source
from opt_runner.sweep.study import open_study
from opt_runner.sweep.sweep import Sweep
from opt_runner.sweep.trials import Trials
from opt_runner.sweep.watch import watched

Launch = Callable[[Sweep, Screen, Sequence[Run]], object]


def conduct(command: Command, options: Options, runner: Runner, launch: Launch) -> int:
    """Tune every entrant, or go on with that; then train what was found. Returns the exit code.

    launch: has runs of a sweep executed; see `conduct.conduct`. Raises UserError, before anything
    starts, for a mistake.
    """
    entrants = [
        entrant_of(label, words, command, options, runner)
        for label, words in zip(command.labels, command.entrants, strict=True)
    ]
    check(entrants, command, options, runner)
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
            final_run(entrant, settings[entrant.label], condition, seed, runner)
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
