"""Exit of a command: a user's mistake is a line and code 2, a bug a traceback and code 1."""

import argparse
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from opt_runner import __version__
from opt_runner.config.compose import conf_dir
from opt_runner.config.overrides import explain_grammar
from opt_runner.config.schema import dotted
from opt_runner.console.steady import make_steady
from opt_runner.errors import Elsewhere, UserError, nearest
from opt_runner.records.reading import printable
from opt_runner.run import interrupt, process

_TRACEBACKS = "OPT_RUN_FULL_ERROR"
_WAIT_SECONDS = 30
_CODE = ("opt_runner.", "hydra_plugins.")


def take_over_from_hydra() -> None:
    """Let Hydra raise its errors, and start on Python 3.14.

    Hydra prints its errors unless HYDRA_FULL_ERROR=1, with which a user asks for tracebacks.
    """
    os.environ.setdefault(_TRACEBACKS, os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if sys.version_info >= (3, 14):
        argparse._ActionsContainer._check_help = _check_help  # type: ignore[attr-defined]


def _check_help(container: argparse._ActionsContainer, action: argparse.Action) -> None:
    """Do without argparse's check of a help text, new in 3.14, which hydra-core 1.3 fails.

    One of Hydra's texts is an object that finds plugins when it is printed, and no str.
    """
    if action.help is not None and not isinstance(action.help, str):
        action.help = repr(action.help) if "--hydra-help" in sys.argv else ""


def rank_0_reports() -> bool:
    """Return True for local ranks above 0, which leave mistakes in the command line to rank 0."""
    return process.started_by_torchrun() and os.environ["LOCAL_RANK"] != "0"


def number(
    kind: type[int] | type[float], least: float, most: float = 2**31 - 1, what: str = ""
) -> Callable[[str], float]:
    """Return a converter for argparse that refuses all but numbers from least to most.

    what: the numbers in words, for the message.
    """
    what = what or ("whole number" if kind is int else "number")

    def convert(text: str) -> float:
        with suppress(ValueError):
            if least <= (value := kind(text)) <= most:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is no {what} from {least:,} to {most:,}")

    return convert


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add --version to a command."""
    parser.add_argument("--version", action="version", version=f"opt-runner {__version__}")


def add_record(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a command for the network of one record, and --version."""
    parser.add_argument("record", type=Path, help="the folder of a run")
    parser.add_argument("--config-dir", type=Path, metavar="DIR",
                        help="with a dataset or a model of your own, as for opt-run")  # fmt: skip
    parser.add_argument("--trust", action="store_true",
                        help="run the code that the record names, whoever wrote it")  # fmt: skip
    add_version(parser)


@contextmanager
def exit_on_error(
    hydra_runs: bool = False, quiet: bool = False, command: str = "opt-run"
) -> Iterator[None]:
    """End the program if the block raises an exception: see this module's docstring.

    hydra_runs: Hydra runs in the block. Its exceptions are about the command line, unless they come
        from the code of a run, a sweeper or a launcher.
    quiet: print no mistakes, and wait until rank 0 has printed them, because torchrun kills all
        processes as soon as one has ended. command: the name in front of each line.
    """
    try:
        yield
    except Elsewhere:
        sys.exit(1)
    except Exception as raised:
        error = _cause(raised)
        known = isinstance(error, UserError | HydraException | OmegaConfBaseException)
        mistake = known or (hydra_runs and not _comes_from_code(error))
        if not mistake or os.environ.get(_TRACEBACKS) == "1":
            traceback.print_exception(raised)
        if not mistake:
            sys.exit(1)
        if quiet:
            time.sleep(_WAIT_SECONDS)
        else:
            for line in _lines(error):
                print(f"{command}: {printable(line)}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def command_of_files(command: str) -> Iterator[None]:
    """Run a command that only writes files. SIGINT, SIGTERM and SIGHUP leave none half-written.

    Errors end it as in `exit_on_error`; logs and prints never fail.
    """
    make_steady()
    logging.raiseExceptions = False  # no message if a log cannot be written
    try:
        with interrupt.raised_signals(), exit_on_error(command=command):
            yield
    except KeyboardInterrupt as error:
        print(f"{command}: interrupted", file=sys.stderr)
        sys.exit(128 + int(getattr(error, "signum", signal.SIGINT)))


def _cause(error: Exception) -> Exception:
    """Return the exception that a constructor raised, which Hydra has wrapped."""
    cause = error.__cause__
    if isinstance(error, InstantiationException) and isinstance(cause, Exception):
        return cause if _comes_from_code(cause) else error
    return error


def _comes_from_code(error: Exception) -> bool:
    """Return True if the exception went through our code below the command, or through a plugin."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    names = [str(frame.f_globals.get("__name__")) for frame in frames]
    return any(name.startswith(_CODE) and not name.startswith("opt_runner.cli") for name in names)


def _lines(error: Exception) -> list[str]:
    """Return one line for each fault; for a misspelt name with the nearest match."""
    text = str(error)
    if isinstance(error, UserError):
        return text.splitlines()
    if isinstance(error, OverrideParseException):
        return [explain_grammar(error.override, text)]
    if found := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.+)'", text):
        hidden = _mistake_beside_a_sweep()
        several = f"{found.group(1)}: several values make a sweep: opt-run -m ..."
        return [several] if hidden is None else _lines(hidden)
    options = r"(?:\s+Available options in '.*':((?:\n\t.+)+))?"
    if found := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'" + options, text):
        group, choice, listed = found.groups()
        # Of a choice in a list, such as tracking=[csv,none], Hydra does not tell the others.
        known = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
        choices = listed.split() if listed else known
        hint = nearest(choice, choices)
        return [f"{group}={choice}: no such choice{hint} ({', '.join(choices)})"]
    if found := re.search(r"Multiple values for (\S+)\. .* '?override (\S+): (\S+)'", text):
        group, _, choice = found.groups()
        return [f"+{group}={choice}: without the plus, {group}={choice}"]
    if found := re.search(r"Could not override '(.+?)'", text):
        key = found.group(1)
        cause = str(error.__cause__ or "")
        if "not in struct" in cause or "No match in the defaults list" in text:
            if inner := re.search(r"full_key: (\S+)", cause):  # of optimizer={lrr:0.2}
                key = inner.group(1)
            return [_unknown(key)]
        return [f"{key}: {' '.join(cause.split()) or text.splitlines()[0]}"]
    return [" ".join(text.split()) or type(error).__name__]


def _unknown(key: str) -> str:
    """Return a line about a key that is not in the config."""
    known = _known_keys()
    if key in known:
        return (
            f"{key}: not every run of the sweep has this key: put those that have it in a sweep "
            "of their own"
        )
    return f"unknown key {key!r}{nearest(key, known)} (opt-run --cfg job shows all keys)"


def _config_options() -> argparse.Namespace:
    """Return the options of the command that choose config files. Raises ArgumentError."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--config-name", "-cn", default="config")
    parser.add_argument("--cfg", "-c")  # or else -c would be short for those
    return parser.parse_known_args()[0]


def config_dir() -> Path | None:
    """Return the folder of --config-dir."""
    try:
        folder: Path | None = _config_options().config_dir
    except argparse.ArgumentError:  # Hydra says it
        return None
    return folder


@contextmanager
def _hydra_again() -> Iterator[tuple[str, list[str]]]:
    """Initialize Hydra as the command did. Yield the config's name and the first override."""
    given = _config_options()
    folder = (given.config_dir or conf_dir()).absolute()
    GlobalHydra.instance().clear()  # the command's own Hydra has ended
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield given.config_name, [f"hydra.searchpath=['{folder}']"]


def _mistake_beside_a_sweep() -> Exception | None:
    """Return the mistake for which Hydra did not see that an experiment is a sweep, if any."""
    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    with _hydra_again() as (name, search):
        loader = GlobalHydra.instance().config_loader()
        try:
            loader.load_configuration(name, [*search, *words], RunMode.MULTIRUN)
        except Exception as error:
            return error
    return None


def _known_keys() -> list[str]:
    """Return all keys, dotted, of the config that the command's groups make, and all groups."""
    groups = [path.name for path in conf_dir().iterdir() if path.is_dir()]
    chosen = [word for word in sys.argv[1:] if word.partition("=")[0] in groups]
    with _hydra_again() as (name, search):
        try:
            cfg = hydra.compose(name, [*search, *chosen])
        except Exception:  # the first choice of a swept group
            cfg = hydra.compose("config")
    keys = dotted(OmegaConf.to_container(cfg))
    nodes = {key[:end] for key in keys for end, sign in enumerate(key) if sign == "."}
    return [*keys, *nodes, *groups]
