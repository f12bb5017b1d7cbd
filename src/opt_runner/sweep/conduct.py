"""A sweep from its plan to its tables."""

import os
import shlex
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from opt_runner.config import titles
from opt_runner.config.schema import Config
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.files import FULL, CannotWrite, remove_link
from opt_runner.records.stored import StoredRun
from opt_runner.report import terminal
from opt_runner.report.comparison import Comparison
from opt_runner.report.tables import compare
from opt_runner.report.wandb import log_tables
from opt_runner.run.run import Run, settled_result
from opt_runner.sweep import plan
from opt_runner.sweep.sweep import LeftRunning, Sweep
from opt_runner.sweep.watch import watched
from opt_runner.tracking import hints


def conduct(
    sweep: Sweep,
    launch: Callable[[Sequence[Run]], object],
    screen: Screen,
    kind_of: Callable[[Run], str] = plan.kind_of,
    report: Callable[[bool], int] | None = None,
) -> int:
    """Show the plan of a sweep, launch its remaining runs, and report on all runs.

    Args:
        sweep: The sweep; its runs are known.
        launch: Starts the given runs and returns when they have ended, or raises LeftRunning. After
            any other exception the results on disk are reported, too.
        screen: Shows the plan, the progress and the results.
        kind_of: See `plan.show`.
        report: See `work_and_report`; None: show the tables.

    Returns the exit code: 0 all finished or left running, 1 some did not finish, 130 or 143
    interrupted. Raises UserError before anything starts if a run cannot be set up or launched, or
    if the disk is too small.
    """
    first = sweep.configs[0]
    if first.note:
        screen.say(first.note)
    if doubles := sweep.asked - len(sweep.runs):
        screen.say(f"{doubles} of {sweep.asked} runs are asked for twice and run once")
    os.environ[titles.SWEEP_VARIABLE] = titles.sweep_variable(sweep.id, sweep.configs)
    left = [run for run in sweep.runs if run.config.rerun or not settled_result(run, screen)]
    if left:
        sweep.check_output(left)
    plan.show(sweep, left, screen, kind_of)

    def work() -> None:
        if left:
            with watched(sweep, left, screen):
                launch(left)

    # rerun=true would train finished runs again.
    same = "the same command without rerun" if first.rerun else "the same command"
    return work_and_report(sweep, work, report or partial(_report, sweep, screen), screen, same)


def work_and_report(
    sweep: Sweep,
    work: Callable[[], None],
    report: Callable[[bool], int],
    screen: Screen,
    same: str = "the same command",
) -> int:
    """Do the work of a sweep, then report on it in any case. Returns the exit code.

    report: shows the results on disk and returns the exit code. Its argument is True if the work
    was done. same: the command that resumes an interrupted sweep.
    Raises UserError, and nothing else, if `work` does.
    """
    code = interrupted = 0
    try:
        work()
    except KeyboardInterrupt as error:
        interrupted = 128 + int(getattr(error, "signum", signal.SIGINT))
    except LeftRunning as left_running:
        screen.say(str(left_running))
        return 0
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            error = CannotWrite(sweep.folder, error)
        if isinstance(error, CannotWrite):
            screen.fail(str(error))
        else:
            _log_failure(sweep, error, screen)
        code = 1
    try:
        code |= report(not code and not interrupted)
    except CannotWrite as error:
        screen.fail(str(error))
        code = 1
    if interrupted:
        print(f"opt-run: interrupted; {same} resumes", file=sys.stderr)
    return interrupted or code


def _log_failure(sweep: Sweep, error: Exception, screen: Screen) -> None:
    """Print one line about the launcher's error and write its traceback to launcher.log."""
    reason = textwrap.shorten(str(error), 300)
    screen.fail(f"the launcher failed: {type(error).__name__}: {reason}")
    path = sweep.folder / "launcher.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_link(path)
        with path.open("a") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        traceback.print_exception(error)
    else:
        screen.fail(f"its traceback: {path}")


def _report(sweep: Sweep, screen: Screen, done: bool) -> int:
    """Show the tables of a sweep, and send them to W&B if it is done.

    Returns the exit code: 1 if a run did not finish.
    """
    first = sweep.configs[0]
    found = [run for planned in sweep.runs if (run := sweep.stored(planned))]
    if first.note and found:
        screen.say(first.note)
    comparisons = show_tables(found, screen)
    missing = len(sweep.runs) - len(found)
    if missing:
        screen.fail(
            f"{missing} of {len(sweep.runs)} runs have not begun, or their records were removed; "
            "the same command runs them"
        )
    if under_way := [run.record for run in found if run.record.is_held()]:
        screen.fail(
            f"{len(under_way)} of {len(sweep.runs)} runs are still under way, in other processes; "
            "the same command waits for them"
        )
    if done:
        log_tables(first, sweep.id, comparisons, screen)
    show_where(first, screen)
    return 0 if not missing and all(run.status == "finished" for run in found) else 1


def show_tables(runs: Iterable[StoredRun], screen: Screen) -> list[Comparison]:
    """Show the tables of these runs and return them."""
    comparisons = compare(runs)
    terminal.show(comparisons, screen, fault=screen.fail)
    return comparisons


def show_where(config: Config, screen: Screen) -> None:
    """Show where the records are, and how to look at them."""
    for hint in hints(config.tracking, config.output_dir):
        screen.say(hint)
    folder = os.path.join(config.output_dir, config.experiment_name)
    screen.say(f"records: {folder}; opt-report {shlex.quote(folder)} draws them")
