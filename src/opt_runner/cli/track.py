"""opt-track: send existing records to Weights & Biases.

Exit codes: 0 sent, 1 W&B did not take all of it, 2 a mistake in the command or in a record. Help
answers without importing torch.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opt_runner.cli import mistakes
from opt_runner.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    """Execute `opt-track`, with the command line of this process if `argv` is None."""
    given = _parser().parse_args(argv)
    with mistakes.command_of_files("opt-track"):
        _track(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opt-track",
        description="Send runs on disk to Weights & Biases, also runs trained with tracking=none. "
        "A run that was sent before is updated. Without a login the runs are written offline, for "
        "`wandb sync`.",
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="RECORD",
                        help="the folder of a run, or one with runs below it")  # fmt: skip
    parser.add_argument("--project", help="default: of the run's config")
    parser.add_argument("--entity", help="default: of the run's config")
    mistakes.add_version(parser)
    return parser


def _track(given: argparse.Namespace) -> None:
    from opt_runner.config.compose import validate
    from opt_runner.console import wandb
    from opt_runner.console.screen import Screen
    from opt_runner.records.stored import find

    screen = Screen("plain")
    chosen = {k: v for k, v in (("project", given.project), ("entity", given.entity)) if v}
    missing = 0
    for run in find(given.folders, screen.fail):
        try:
            config = validate({**run.config, "tracking": _tracking(run.config, chosen)})
            wandb.check(config.tracking)
            sent = wandb.send(run, config, screen)
        except (OSError, ValueError, UserError) as error:
            raise UserError(f"{run.record.directory}: {error}") from error
        missing += not sent
        screen.say(f"{config.title}: {run.status}, {'sent' if sent else 'not sent'}")
    if hint := wandb.upload_hint(config.tracking, config.output_dir):
        screen.say(hint)
    if missing:
        sys.exit(1)


def _tracking(config: dict[str, Any], chosen: dict[str, str]) -> dict[str, Any]:
    """Return the run's own tracking if it is W&B's, else the default one, with what is chosen."""
    own: dict[str, Any] = config.get("tracking") or {}
    kept = own if own.get("name") == "wandb" else {"name": "wandb"}
    return {**kept, **chosen}
