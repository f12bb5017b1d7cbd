"""opt-track: send existing records to Weights & Biases and other trackers.

Exit codes: 0 sent, 1 a tracker did not take all of it, 2 a mistake in the command or in a record.
Help answers without importing torch.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opt_runner.cli import mistakes
from opt_runner.errors import UserError

if TYPE_CHECKING:
    from opt_runner.records.stored import StoredRun


def main(argv: Sequence[str] | None = None) -> None:
    """Execute `opt-track`, with the command line of this process if `argv` is None."""
    given = _parser().parse_args(argv)
    with mistakes.command_of_files("opt-track"):
        from opt_runner import tracking
        from opt_runner.config.compose import validate
        from opt_runner.console.screen import Screen
        from opt_runner.records.stored import find

        screen = Screen("plain")
        chosen = {k: v for k, v in (("project", given.project), ("entity", given.entity)) if v}
        nodes = _nodes(given.to.split(","))
        missing, hints = 0, dict[str, None]()
        for run in find(given.folders, screen.fail):
            try:
                own = _with_own(nodes, run.config.get("tracking"))
                there = {"output_dir": _output_dir(run, given.folders)}
                config = validate({**run.config, **there, "tracking": {**own, **chosen}})
                tracking.check(config.tracking)
                # A run under way writes its own files of its trackers.
                sent = not run.record.is_held() and tracking.send(run, config, screen)
            except UserError as error:  # mostly of the tracker, and so of every run
                raise UserError(f"{run.record.directory}: {error}") from error
            except (OSError, ValueError) as error:
                screen.fail(f"{run.record.directory}: {error}")
                missing += 1
                continue
            missing += not sent
            screen.say(f"{config.title}: {run.status}, {'sent' if sent else 'not sent'}")
            hints |= dict.fromkeys(tracking.hints(config.tracking, config.output_dir))
        for hint in hints:
            screen.say(hint)
        if missing:
            sys.exit(1)


def _output_dir(run: "StoredRun", folders: Sequence[Path]) -> str:
    """Return the output folder of a run or, of a record that was moved, the folder given for it."""
    own, record = str(run.config.get("output_dir")), run.record.directory.resolve()
    if record.is_relative_to(Path(own).resolve()):
        return own
    given = (folder for folder in folders if record.is_relative_to(folder.resolve()))
    return str(next(given, folders[0]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opt-track",
        description="Send runs on disk to Weights & Biases or other trackers, also runs trained "
        "with tracking=none. A run that was sent before is updated. Without a login the runs are "
        "written offline, for `wandb sync`.",
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="RECORD",
                        help="the folder of a run, or one with runs below it")  # fmt: skip
    parser.add_argument("--to", default="wandb", metavar="TRACKERS",
                        help="wandb, tensorboard, csv, mlflow, or several with commas between; "
                        "default: wandb")  # fmt: skip
    parser.add_argument("--project", help="default: of the run's config")
    parser.add_argument("--entity", help="default: of the run's config")
    mistakes.add_version(parser)
    return parser


def _nodes(names: Sequence[str]) -> dict[str, Any]:
    """Return the keys of these choices of the group `tracking`. Raises UserError for others."""
    from opt_runner.config.compose import conf_dir
    from opt_runner.records.reading import read_yaml

    files = {path.stem: path for path in sorted((conf_dir() / "tracking").glob("*.yaml"))}
    del files["none"]
    found: dict[str, Any] = {}
    for name in names:
        if name not in files:
            raise UserError(f"--to {name}: no such tracker ({', '.join(files)})")
        found |= read_yaml(files[name])
    return found


def _with_own(node: dict[str, Any], own: Any) -> dict[str, Any]:
    """Return the keys of `node` with the record's own values. The code is ours, not a record's."""
    own = own if isinstance(own, dict) else {}
    return {
        key: _with_own(value, own.get(key))
        if isinstance(value, dict)
        else value
        if key == "_target_"
        else own.get(key, value)
        for key, value in node.items()
    }
