"""opt-run: one cell, or a sweep with `-m`. Exit codes: 0 all finished, 1 a cell failed,
2 a mistake in the command, 130 or 143 interrupted.

Help, `--cfg` and completion answer without importing torch.
"""

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

from opt_runner import config, process, sweep
from opt_runner.config import Config
from opt_runner.errors import UserError, nearest

if TYPE_CHECKING:
    from opt_runner.records import Result

# What became of a cell that is no part of a sweep: its status, or the mistake in its command.
# Hydra would print lines of its own above an exception.
_single: str | UserError | None = None


@hydra.main(version_base="1.3", config_path=str(config.conf_dir()), config_name="config")
def _app(cfg: DictConfig) -> float | None:
    """One cell; returns its test error for sweepers that optimise. Failures are on disk."""
    global _single
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
        _single = result.status
    return result.test_error


def _run_cell(checked: Config, in_sweep: bool) -> "Result":
    from opt_runner import cell
    from opt_runner.tracking import screen

    # A launcher's child process shares the terminal with others: no bars there.
    alone = not in_sweep or sweep.current is not None
    screen.set_mode(checked.progress if alone or checked.progress != "auto" else "plain")
    identity = cell.identify(checked)
    if sweep.current is not None and (known := sweep.current.done.get(identity.signature)):
        return known
    result = cell.run(identity, in_sweep)
    if sweep.current is not None:
        sweep.current.done[identity.signature] = result
        screen.cell_done(result)
    else:
        screen.say_tracking(checked.output_dir)
        screen.say(f"record: {identity.record.directory}")
    return result


def main() -> None:
    # With it Hydra raises instead of printing; set by the user, it means tracebacks are wanted.
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    process.spin_briefly()
    try:
        _run_app()
        if isinstance(_single, UserError):
            raise _single
    except KeyboardInterrupt as error:
        _interrupted(error)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        for line in _lines(error):
            print(f"opt-run: {line}", file=sys.stderr)
        sys.exit(2)
    if sweep.current is not None:
        sys.exit(_report(sweep.current))
    sys.exit(0 if _single in (None, "finished") else 1)


def _run_app() -> None:
    try:
        _app()
    except sweep.PlanFailed as failed:
        raise failed.cause from None
    finally:
        sweep.close()


def _report(ran: sweep.Sweep) -> int:
    """Print the table of a sweep from disk; 1 where a cell did not finish."""
    from opt_runner.report import table
    from opt_runner.tracking import screen

    results = [result for _, result in ran.results() if result is not None]
    if results:
        screen.console.print(table.cells(results))
    missing = len(ran.cells) - len(results)
    for line in table.faults(results):
        screen.say(line)
    if missing:
        screen.say(f"{missing} of {len(ran.cells)} cells have no result yet")
    output_dir = ran.cells[0].config.output_dir
    screen.say_tracking(output_dir)
    screen.say(f"records: {os.path.join(output_dir, ran.cells[0].config.experiment_name)}")
    return 0 if not missing and all(r.status == "finished" for r in results) else 1


def _interrupted(error: KeyboardInterrupt) -> NoReturn:
    signum: int = getattr(error, "signum", 2)
    if sweep.current is not None:
        _report(sweep.current)
    print("opt-run: interrupted; the same command goes on from here", file=sys.stderr)
    sys.exit(128 + signum)


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
