"""Titles of runs, which say what differs in their sweep."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from opt_runner.config.schema import Config, as_typed, dotted

# The sweep's id and the keys in which its runs differ, which child processes inherit.
SWEEP_VARIABLE = "OPT_RUNNER_SWEEP"
_NAMES = ("method.name", "model.name", "dataset.name")  # with the seed in the title of every run


def sweep_variable(sweep_id: str, configs: Sequence[Config], keys: Iterable[str] = ()) -> str:
    """Return the value of SWEEP_VARIABLE. keys: those that a search varies."""
    differing = {*keys}
    # What differs between methods, networks or datasets alone, their names tell.
    alike: dict[tuple[str, ...], dict[str, Any]] = {}
    for config in configs:
        content = dotted(config.content)
        first = alike.setdefault(tuple(content[key] for key in _NAMES), content)
        differing |= {key for key in first.keys() & content if content[key] != first[key]}
    return " ".join([sweep_id, *sorted(differing)])


def title(config: Config) -> str:
    """Return the title of a run, with the values in which it differs from others of its sweep."""
    content = dotted(config.content)
    _, keys = of_sweep()
    own = [key for key in keys if key in content and key not in (*_NAMES, "seed")]
    return " ".join([config.title, *(f"{key}={as_typed(content[key])}" for key in own)])


def of_sweep() -> tuple[str | None, list[str]]:
    """Return the sweep's id, None without a sweep, and the keys in which its runs differ."""
    name, *keys = os.environ.get(SWEEP_VARIABLE, "").split(" ")
    return name or None, keys
