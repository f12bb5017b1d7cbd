"""Conduct a sweep: its plan, the launch of what is left of it, its tables."""

import os
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from opt_runner.config.schema import Config
from opt_runner.console import wandb
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.files import CannotWrite
from opt_runner.records.stored import StoredRun
from opt_runner.report import terminal
from opt_runner.report.comparison import Comparison, compare
from opt_runner.report.wandb import log_tables
from opt_runner.run.execute import settled_result
from opt_runner.run.run import Run
from opt_runner.sweep import plan
from opt_runner.sweep.sweep import LeftRunning, Sweep
from opt_runner.sweep.watch import watched

Launch = Callable[[Sequence[Run]], object]


def conduct(sweep: Sweep, launch: Launch, screen: Screen) -> int:
    """Plan the sweep, launch what is left of it, tell of all of it.

    launch: starts the runs that it is given, and returns once they have ended, or raises
    LeftRunning. Whatever else it raises, the table is shown: what counts is on disk.
    Returns the exit code: 0 all finished or left running, 1 some did not finish, 130 or 143
    interrupted.
    Raises UserError, before anything starts, where a run cannot be set up or launched, or the disk
    is too small.
    """
    first = sweep.runs[0].config
    if first.note:
        screen.say(first.note)
    if doubles := sweep.asked - len(sweep.runs):
        screen.say(f"{doubles} of {sweep.asked} runs are asked for twice and run once")
    left = [run for run in sweep.runs if run.config.rerun or not settled_result(run, screen)]
    plan.show(sweep, left, screen)
    os.environ[wandb.SWEEP_VARIABLE] = sweep.id

    def work() -> None:
        if left:
            with watched(sweep, left, screen):
                launch(left)

    # With rerun, what is done would be done again.
    same = "the same command without rerun" if first.rerun else "the same command"
    return worked(sweep, work, partial(tell, sweep, screen), screen, same)


def worked(
    sweep: Sweep,
    work: Callable[[], None],
    tell: Callable[[bool], int],
    screen: Screen,
    same: str,
) -> int:
    """Do the work of a sweep, then tell of it: what counts is on disk. Returns the exit code.

    tell: is given whether the work was done, and returns the exit code if so. same: what goes on
    after an interruption.
    Raises UserError, and nothing else, where `work` does.
    """

    def told(done: bool) -> int:
        try:
            return tell(done)
        except CannotWrite as error:
            screen.fail(str(error))
            return 1

    try:
        work()
    except KeyboardInterrupt as error:
        return _interrupted(told, same, int(getattr(error, "signum", signal.SIGINT)))
    except LeftRunning as left_running:
        screen.say(str(left_running))
        return 0
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, CannotWrite):
            screen.fail(str(error))
        else:
            _log_failure(sweep, error, screen)
        told(False)
        return 1
    return told(True)


def _interrupted(tell: Callable[[bool], int], same: str, signum: int) -> int:
    tell(False)
    print(f"opt-run: interrupted; {same} goes on from here", file=sys.stderr)
    return 128 + signum


def _log_failure(sweep: Sweep, error: Exception, screen: Screen) -> None:
    """A line of what the launcher failed of; its traceback says nothing to who did not write it."""
    reason = textwrap.shorten(str(error), 300)
    screen.fail(f"the launcher failed: {type(error).__name__}: {reason}")
    path = sweep.folder / "launcher.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        traceback.print_exception(error)
    else:
        screen.fail(f"its traceback: {path}")


def tell(sweep: Sweep, screen: Screen, summary: bool) -> int:
    """Show the sweep's tables from disk, for W&B as well with `summary`; 1 where a run did not
    finish."""
    first = sweep.runs[0].config
    found = [run for planned in sweep.runs if (run := sweep.stored(planned))]
    if first.note and found:
        screen.say(first.note)
    comparisons = show_tables(found, screen)
    missing = len(sweep.runs) - len(found)
    if missing:
        screen.fail(f"{missing} of {len(sweep.runs)} runs have not begun")
    if under_way := [run.record for run in found if run.record.is_held()]:
        screen.fail(
            f"{len(under_way)} of {len(sweep.runs)} runs are still under way, in other processes; "
            "the same command waits for them"
        )
    if summary:
        log_tables(first, sweep.id, comparisons, screen)
    say_where(first, screen)
    return 0 if not missing and all(run.status == "finished" for run in found) else 1


def show_tables(runs: Iterable[StoredRun], screen: Screen) -> list[Comparison]:
    """The tables of these runs, which are shown."""
    comparisons = compare(runs)
    terminal.show(comparisons, screen, fault=screen.fail)
    return comparisons


def say_where(config: Config, screen: Screen) -> None:
    """Where the records are, and what lies offline."""
    if hint := wandb.upload_hint(config.tracking, config.output_dir):
        screen.say(hint)
    folder = os.path.join(config.output_dir, config.experiment_name)
    screen.say(f"records: {folder}; opt-report {folder} draws them")
