"""opt-run: one cell, or a sweep with `-m`. Exit codes: 0 all finished, 1 a cell failed,
2 a mistake in the command, 130 or 143 interrupted.

Help, `--cfg` and completion answer without importing torch.
"""

import logging
import os
import re
import sys
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from opt_runner import config, interrupt, process, sweep
from opt_runner.config import Config
from opt_runner.errors import UserError, nearest

if TYPE_CHECKING:
    from opt_runner.records import Result

# What became of a cell that is no part of a sweep: its status, or the mistake in its command.
# Hydra would print lines of its own above an exception.
_single: str | UserError | None = None

# Whether Hydra has composed a config: what it raises before that is about the command.
_composed = False


@hydra.main(version_base="1.3", config_path=str(config.conf_dir()), config_name="config")
def _app(cfg: DictConfig) -> float | None:
    """One cell; returns its test error for sweepers that optimise. Failures are on disk."""
    global _single, _composed
    _composed = True
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        result = _run_cell(config.read(cfg), in_sweep)
    except UserError as error:
        if not in_sweep:
            _single = error
            return None
        if sweep.current is None:
            raise
        # The plan found nothing: something changed since. The table shows a cell without result.
        print(f"opt-run: {error}", file=sys.stderr)
        return None
    if not in_sweep:
        _single = result.status if result else "left"
    return result.test_error if result else None


def _run_cell(checked: Config, in_sweep: bool) -> "Result | None":
    from opt_runner import cell
    from opt_runner.tracking import screen

    # A launcher's child process shares the terminal with others: no bars there.
    alone = not in_sweep or sweep.current is not None
    screen.set_mode(checked.progress if alone or checked.progress != "auto" else "plain")
    identity = cell.identify(checked, _command())
    if sweep.current is not None and (known := sweep.current.done.get(identity.signature)):
        return known
    result = cell.run(identity, in_sweep)
    if sweep.current is not None:
        if result is not None:
            sweep.current.done[identity.signature] = result
        screen.cell_done(result)
    else:
        screen.say_tracking(checked.output_dir)
        screen.say(f"record: {identity.record.directory}")
    return result


def _command() -> str:
    """What makes the cell that Hydra runs now, alone or in a sweep."""
    hydra_config = HydraConfig.get()
    mine = [s.path for s in hydra_config.runtime.config_sources if s.provider == "command-line"]
    return sweep.command(mine, hydra_config.overrides.task)


def main() -> None:
    # With it Hydra raises instead of printing; set by the user, it means tracebacks are wanted.
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # argparse takes all positional arguments in one run: `a=1 -m b=2,3` would be a mistake.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    process.spin_briefly()
    interrupt.raise_on_sigterm()
    logging.raiseExceptions = False  # a log that cannot be written is no reason to speak up
    try:
        _run_app()
        if isinstance(_single, UserError):
            raise _single
        if sweep.current is not None:
            sys.exit(_report(sweep.current, summary=True))
    except KeyboardInterrupt as error:
        _interrupted(error)
    except Exception as error:
        mistake = isinstance(error, UserError | HydraException | OmegaConfBaseException)
        if wants_traceback or (_composed and not mistake):
            raise
        for line in _lines(error):
            print(f"opt-run: {line}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if _single in (None, "finished") else 1)


def _run_app() -> None:
    try:
        _app()
    except sweep.PlanFailed as failed:
        raise failed.cause from None
    finally:
        sweep.close()


def _report(ran: sweep.Sweep, summary: bool) -> int:
    """Print the sweep's tables from disk, for W&B as well with `summary`; 1 where a cell did not
    finish."""
    from opt_runner.report import table, tracked
    from opt_runner.report.comparison import compare
    from opt_runner.tracking import screen

    first = ran.cells[0].config
    found = [cell for cell in ran.on_disk() if cell is not None]
    if first.note and found:
        screen.say(first.note)
    comparisons = compare(found)
    for comparison in comparisons:
        screen.console.print(table.table(comparison))
        for line in table.faults(comparison):
            screen.say(line)
    missing = len(ran.cells) - len(found)
    if missing:
        screen.say(f"{missing} of {len(ran.cells)} cells have not begun")
    if summary:
        tracked.log_summary(first, ran.id, comparisons)
    screen.say_tracking(first.output_dir)
    folder = os.path.join(first.output_dir, first.experiment_name)
    screen.say(f"records: {folder}; opt-report {folder} draws them")
    return 0 if not missing and all(cell.status == "finished" for cell in found) else 1


def _interrupted(error: KeyboardInterrupt) -> NoReturn:
    signum: int = getattr(error, "signum", 2)
    if sweep.current is not None:
        _report(sweep.current, summary=False)
    # With it, what is done would be done again.
    same = "the same command without rerun" if _reruns() else "the same command"
    print(f"opt-run: interrupted; {same} goes on from here", file=sys.stderr)
    sys.exit(128 + signum)


def _reruns() -> bool:
    return any(word.startswith("rerun=") and word != "rerun=false" for word in sys.argv)


def _lines(error: Exception) -> list[str]:
    """A mistake as one line a fault; Hydra's messages with the nearest match of a misspelt name."""
    text = str(error)
    if isinstance(error, UserError):
        return text.splitlines()
    missing = r"Could not find '(.+)/(.+)'\s+Available options in '.*':((?:\n\t.+)+)"
    if found := re.search(missing, text):
        group, choice, options = found.groups()
        choices = options.split()
        hint = nearest(choice, choices)
        return [f"{group}={choice}: no such choice{hint} ({', '.join(choices)})"]
    if found := re.search(r"Could not override '(.+?)'", text):
        key = found.group(1)
        cause = str(error.__cause__ or "")
        if "not in struct" in cause or "No match in the defaults list" in text:
            hint = nearest(key, _known_keys())
            return [f"unknown key {key!r}{hint} (opt-run --cfg job shows all)"]
        return [f"{key}: {' '.join(cause.split()) or text.splitlines()[0]}"]
    return [" ".join(text.split())]


def _known_keys() -> list[str]:
    """Every key of the default config, dotted, and every group."""
    with hydra.initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        cfg = OmegaConf.to_container(hydra.compose("config"))
    keys: list[str] = []

    def walk(node: object, path: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                keys.append(f"{path}{key}")
                walk(value, f"{path}{key}.")

    walk(cfg, "")
    return [*keys, "experiment"]
