"""A fair comparison: every entrant is tuned alike, then trained with its best setting.

An entrant is one combination of the command line's values, such as a method on a network. Its
trials train on a part of the training samples for a share of the budget, at points of its space:
its recipe, then a Halton sequence. The setting with the least error on the samples held back is
then trained on all training samples, for the whole budget, with other seeds. Only then the test
samples are used, once.
"""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from opt_runner.console.screen import Screen
from opt_runner.errors import counted
from opt_runner.files import CannotWrite, make_folder
from opt_runner.records import tuned
from opt_runner.records.search import SearchRecord, words
from opt_runner.report.trials import settings_table
from opt_runner.run.run import Run
from opt_runner.sweep import conduct as grid
from opt_runner.sweep.entrants import (
    Command,
    ComparisonOptions,
    Entrant,
    check,
    entrant_of,
    final_run,
)
from opt_runner.sweep.search import held, space_digest
from opt_runner.sweep.sweep import Listed, Sweep

if TYPE_CHECKING:
    from hydra_plugins.opt_runner.sweepers import RunSweeper


def conduct(command: Command, options: ComparisonOptions, runner: "RunSweeper") -> int:
    """Tune every entrant, then train the best settings; resume both. Returns the exit code.

    Raises UserError for a mistake, before anything starts.
    """
    entrants = [
        entrant_of(label, fixed, command, options, runner) for label, fixed in command.entrants
    ]
    check(entrants, command, options, runner)
    screen = runner.screen(entrants[0].trials[0])
    digests = sorted(space_digest(one.space, one.trials[0], options.seed) for one in entrants)
    name = f"fair-{hashlib.sha256(' '.join(digests).encode()).hexdigest()[:8]}"
    folder = Path(options.storage) / name
    with held(folder):
        _show_plan(entrants, command, options, name, screen)
        code, records = _tune(entrants, name, folder, runner, screen)
        if code or not records:
            return code
        settings = {r.label: words(best.parameters) for r in records for best in r.ranked()[:1]}
        tuned_runs = {
            entrant.label: [
                final_run(entrant, settings[entrant.label], condition, seed, runner)
                for condition in options.conditions
                for seed in command.seeds
            ]
            for entrant in entrants
            if entrant.label in settings
        }
        signatures = {label: [run.signature for run in own] for label, own in tuned_runs.items()}
        try:
            tuned.keep(folder, settings, signatures)
        except CannotWrite as error:
            screen.fail(str(error))
            return 1
    # Ordered by condition and seed, so that an interruption leaves complete comparisons.
    ordered = [run for together in zip(*tuned_runs.values(), strict=True) for run in together]
    runs = list({run.signature: run for run in ordered}.values())
    final = Sweep(runs, len(ordered), runner.here)
    runner.prepare(final, screen)
    code = grid.conduct(
        final, lambda left: runner.serve(final, screen, Listed(left), len(left)), screen
    )
    return code or int(any(record.count("failed") or not record.ranked() for record in records))


def _tune(
    entrants: Sequence[Entrant], name: str, folder: Path, runner: "RunSweeper", screen: Screen
) -> tuple[int, list[SearchRecord]]:
    """Train all trials. Returns the exit code, and the trials unless the launcher has left them."""
    owners = {run.signature: entrant for entrant in entrants for run in entrant.trials}
    runs = {run.signature: run for entrant in entrants for run in entrant.trials}
    asked = sum(len(entrant.trials) for entrant in entrants)
    sweep = Sweep(list(runs.values()), asked, runner.here, name)
    records: list[SearchRecord] = []
    labels = sorted(entrant.label for entrant in entrants)

    def write(entrant: Entrant) -> SearchRecord:
        own = folder / folder_name(labels.index(entrant.label), entrant.label)
        make_folder(own, "hydra.sweeper.storage")
        record = entrant.record(sweep)
        record.write(own)
        return record

    def ended(run: Run) -> None:
        with suppress(CannotWrite):  # all are written again at the end
            write(owners[run.signature])

    def launch(left: Sequence[Run]) -> None:
        runner.serve(sweep, screen, Listed(left, ended), len(left))

    def report(done: bool) -> int:
        records.extend(map(write, entrants))
        _show(records, screen)
        ended = not any(record.count("not finished") for record in records)
        return 0 if ended and any(record.ranked() for record in records) else 1

    runner.prepare(sweep, screen)
    code = grid.conduct(
        sweep, launch, screen, kind_of=lambda run: owners[run.signature].label, report=report
    )
    return code, records


def folder_name(number: int, label: str) -> str:
    """Return the name of the folder of an entrant, as `1-gs`."""
    readable = re.sub(r"[^\w.=]+", "-", label)
    return f"{number}-{readable[:60]}"


def _show(records: Sequence[SearchRecord], screen: Screen) -> None:
    """Show the best setting of each entrant, and why trials do not count."""
    for record in records:
        if failed := [trial for trial in record.trials if trial.status == "failed"]:
            screen.fail(
                f"{record.label}: {len(failed)} of {len(record.trials)} trials failed and do not "
                f"count, the first with: {failed[0].reason}; the same command runs them again"
            )
        if record.count("diverged") == len(record.trials):
            screen.fail(f"{record.label}: all trials diverged; it is not compared")
    screen.show(settings_table(records))


def _show_plan(
    entrants: Sequence[Entrant],
    command: Command,
    options: ComparisonOptions,
    name: str,
    screen: Screen,
) -> None:
    final = len(entrants) * len(command.seeds) * len(options.conditions)
    compared = counted(len(entrants), "entrant")
    screen.say(
        f"plan: {name}: {compared}, each with {counted(options.trials, 'trial')} of "
        f"{options.share:.0%} of the budget on {1 - options.validation:.0%} of the training "
        f"samples; then {counted(final, 'run')}: {compared} x {counted(len(command.seeds), 'seed')}"
        + (f" x {len(options.conditions)} conditions" if len(options.conditions) > 1 else "")
    )
    if "" not in options.conditions:
        screen.say('  no run under the usual settings: hydra.sweeper.conditions has no ""')
    for entrant in entrants:
        searched = " ".join(f"{key}={text}" for key, text in entrant.space.written.items())
        screen.say(f"  {entrant.label}: {searched}")
