"""Command opt-report: tables and pictures of what opt-run left on disk.

Exit codes: 0 written, 2 a mistake in the command or nothing to report.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from opt_runner.cli import mistakes
from opt_runner.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    """Execute `opt-report`, with the command line of this process if `argv` is None."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    given = _parser().parse_args(arguments)
    with mistakes.command_of_files("opt-report"):
        _report(given, shlex.join(["opt-report", *arguments]))


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
    parser.add_argument("--title", default="OPT: methods compared", help="of the page")
    mistakes.add_version(parser)
    return parser


def _report(given: argparse.Namespace, command: str) -> None:
    # Slow to import: help must answer at once.
    from opt_runner.console.screen import Screen
    from opt_runner.files import CannotWrite
    from opt_runner.records import search, stored, tuned
    from opt_runner.report import terminal, trials, writers
    from opt_runner.report.tables import compare

    screen = Screen()
    folders = given.folders or [Path("outputs")]
    searches = search.find(folders, screen.say)
    # An interrupted comparison may have only searches, whose runs are in other folders.
    runs = stored.find(folders, screen.say, allow_none=bool(searches))
    former = tuned.superseded(folders, screen.say)
    beaten = set() if given.trials else search.beaten(searches) - former
    left_out = beaten | former
    tables = compare(run for run in runs if run.signature not in left_out)
    out = given.out or folders[0] / "report"
    try:
        report = writers.collect(tables, given.title, command, searches, screen.say)
        written = writers.write(report, out)
    except (CannotWrite, OSError) as error:
        raise UserError(f"{error}; set --out DIR") from error
    terminal.show(tables, screen, fault=screen.say, notes=True)
    for ones in search.tunings(searches):
        screen.show(trials.settings_table(ones))
    alone = [one for one in searches if not one.label]
    for one in alone:
        screen.say(trials.counts(one))
        screen.show(trials.table(one))
    if count := sum(run.signature in beaten for run in runs):
        screen.say(f"left out: {count} runs of trials that are not the best (--trials shows them)")
    if count := sum(run.signature in former for run in runs):
        screen.say(f"left out: {count} runs of fair comparisons with outdated settings")
    screen.say(f"written: {out / 'report.html'} and {len(written) - 1} more files beside it")
