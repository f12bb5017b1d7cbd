"""Command opt-report: tables and pictures of what opt-run left on disk.

Exit codes: 0 written, 2 a mistake in the command or nothing to report.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opt_runner.cli import mistakes
from opt_runner.errors import UserError, counted

if TYPE_CHECKING:
    from opt_runner.console.screen import Screen
    from opt_runner.records.stored import StoredRun


def main(argv: Sequence[str] | None = None) -> None:
    """Execute `opt-report`, with the command line of this process if `argv` is None."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    given = _parser().parse_args(arguments)
    command = shlex.join(["opt-report", *arguments])
    with mistakes.command_of_files("opt-report"):
        _report(given, command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opt-report",
        description="Tables and pictures of what opt-run left on disk: means over seeds, "
        "differences to plain training with intervals, energy, angles.",
        epilog="Runs of different datasets, networks, budgets or versions are never averaged: "
        "they are separate tables.",
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="folder", default=[],
                        help="where to look for records (default: outputs)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="where the files go (default: FOLDER/report)")  # fmt: skip
    parser.add_argument(
        "--trials",
        action="store_true",
        help="show the runs of all trials of a search, not only of the best one",
    )
    parser.add_argument("--methods", type=_names, default=[], metavar="A,B",
                        help="only these methods, such as standard,cayley")  # fmt: skip
    parser.add_argument("--columns", type=_names, default=[], metavar="A,B",
                        help="only these columns, such as 'test error,gap,p'")  # fmt: skip
    parser.add_argument(
        "--live",
        type=mistakes.number(float, 1, 3600, "number of seconds"),
        nargs="?",
        const=30.0,
        metavar="SECONDS",
        help="write again every SECONDS (30) while runs train; browsers show it by themselves",
    )
    parser.add_argument("--title", default="OPT: methods compared", help="of the page")
    mistakes.add_version(parser)
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _report(given: argparse.Namespace, command: str) -> None:
    # Slow to import: help must answer at once.
    from opt_runner.console.screen import Screen

    screen = Screen()
    if given.live is None:
        _write(given, command, screen)
        return
    screen.say("writing while runs train; Ctrl-C ends it")
    try:
        while _train(runs := _write(given, command, screen, quiet=True)):
            counts = f"{sum(run.status == 'finished' for run in runs)} of {len(runs)} runs finished"
            screen.say(f"{time.strftime('%H:%M:%S')} written: {counts}")
            time.sleep(given.live)
    except KeyboardInterrupt:
        screen.say("stopped")
    given.live = None  # the last pages are not read again
    _write(given, command, screen)


def _train(runs: Sequence["StoredRun"]) -> bool:
    """Return True if a run trains, or does a moment later: a sweep starts its next one."""
    if _held(runs):
        return True
    time.sleep(3)
    return _held(runs)


def _held(runs: Sequence["StoredRun"]) -> bool:
    return any(run.record.is_held() for run in runs)


def _write(
    given: argparse.Namespace, command: str, screen: "Screen", quiet: bool = False
) -> list["StoredRun"]:
    """Write the report and show it, unless `quiet`. Return all runs."""
    from opt_runner.files import CannotWrite, make_folder
    from opt_runner.records import search, stored, tuned
    from opt_runner.report import terminal, trials, writers
    from opt_runner.report.columns import check_names
    from opt_runner.report.tables import compare

    folders = given.folders or [Path("outputs")]
    searches = search.find(folders, screen.say)
    # An interrupted comparison may have only searches, whose runs are in other folders.
    runs = stored.find(folders, screen.say, allow_none=bool(searches))
    former = tuned.superseded(folders, screen.say, runs)
    beaten = set() if given.trials else search.beaten(searches) - former
    left_out = beaten | former
    tables = compare(_chosen(given.methods, (r for r in runs if r.signature not in left_out)))
    check_names(given.columns, tables)
    out = given.out or folders[0] / "report"
    refresh = round(given.live or 0)
    make_folder(out, "--out")
    try:
        report = writers.collect(
            tables, given.title, command, searches, screen.say, out, given.columns, refresh
        )
        written = writers.write(report)
    except (CannotWrite, OSError) as error:
        raise UserError(f"{error}; set --out DIR") from error
    if quiet:
        return runs
    terminal.show(tables, screen, fault=screen.say, notes=True, names=given.columns)
    for ones in search.tunings(searches):
        screen.show(trials.settings_table(ones))
    alone = [one for one in searches if not one.label]
    for one in alone:
        screen.say(trials.counts(one))
        screen.show(trials.table(one))
    if count := sum(run.signature in beaten for run in runs):
        runs_left = counted(count, "run")
        screen.say(f"left out: {runs_left} of trials that are not the best (--trials shows them)")
    if count := sum(run.signature in former for run in runs):
        screen.say(f"left out: {counted(count, 'run')} of fair comparisons with outdated settings")
    screen.say(f"written: {out / 'explore.html'}, report.html and {len(written) - 2} more files")
    return runs


def _chosen(methods: Sequence[str], runs: Iterable["StoredRun"]) -> list["StoredRun"]:
    """Return the runs of these methods, all if none is named. Raises UserError for one without."""
    runs = list(runs)
    found = {run.method for run in runs}
    if unknown := [name for name in methods if name not in found]:
        raise UserError(
            f"--methods: no run has the method {', '.join(unknown)}; "
            f"there are: {', '.join(sorted(found)) or 'none'}"
        )
    return [run for run in runs if not methods or run.method in methods]
