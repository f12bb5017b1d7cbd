"""A user's mistake ends in one line a fault and exit code 2, a bug in a traceback and 1."""

import argparse
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from opt_runner.config.compose import conf_dir
from opt_runner.errors import Elsewhere, UserError, nearest

_TRACEBACKS = "OPT_RUN_FULL_ERROR"
_WAIT_SECONDS = 30


def take_over_from_hydra() -> None:
    """Let Hydra raise what it would print; HYDRA_FULL_ERROR=1 of the user's asks for tracebacks."""
    os.environ.setdefault(_TRACEBACKS, os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"


def another_tells() -> bool:
    """Whether torchrun started this process beside another of the same machine, which gets the same
    command line and configs, and so tells of the mistakes in them."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


@contextmanager
def told(
    all_are_mistakes: bool = False, quiet: bool = False, command: str = "opt-run"
) -> Iterator[None]:
    """Within the block an exception ends the program as this module says.

    all_are_mistakes: of what Hydra does with a command line any exception is about that line.
    quiet: say nothing of mistakes, and leave the other process time to say it: torchrun kills all
    others as soon as one has ended.
    """
    try:
        yield
    except Elsewhere:
        sys.exit(1)
    except Exception as error:
        known = isinstance(error, UserError | HydraException | OmegaConfBaseException)
        mistake = known or all_are_mistakes
        if not mistake or os.environ.get(_TRACEBACKS) == "1":
            traceback.print_exc()
        if not mistake:
            sys.exit(1)
        if quiet:
            time.sleep(_WAIT_SECONDS)
        else:
            for line in _lines(error):
                print(f"{command}: {line}", file=sys.stderr)
        sys.exit(2)


def _lines(error: Exception) -> list[str]:
    """One line a fault; Hydra's messages with the nearest match of a misspelt name."""
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
            known = _known_keys()
            if key in known:
                return [
                    f"{key}: not every run of the sweep has this key: put those that have it in a "
                    "sweep of their own"
                ]
            hint = nearest(key, known)
            return [f"unknown key {key!r}{hint} (opt-run --cfg job shows all keys)"]
        return [f"{key}: {' '.join(cause.split()) or text.splitlines()[0]}"]
    return [" ".join(text.split())]


def _known_keys() -> list[str]:
    """Every key, dotted, of the config that the command's groups make, and every group."""
    groups = [path.name for path in conf_dir().iterdir() if path.is_dir()]
    chosen = [word for word in sys.argv[1:] if word.partition("=")[0] in groups]
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", "-cd", type=Path, default=conf_dir())
    own = parser.parse_known_args()[0].config_dir.absolute()
    GlobalHydra.instance().clear()  # a sweep has it, and has ended
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            cfg = hydra.compose("config", [f"hydra.searchpath=['{own}']", *chosen])
        except Exception:  # of a group that is swept
            cfg = hydra.compose("config")
    keys: list[str] = []

    def walk(node: object, path: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                keys.append(f"{path}{key}")
                walk(value, f"{path}{key}.")

    walk(OmegaConf.to_container(cfg), "")
    return [*keys, *groups]
