"""Titles of runs, which say what differs in their sweep."""

import os
from collections.abc import Iterable, Sequence

from opt_runner.config.schema import Config, as_typed, dotted

# The sweep's id and the keys in which its runs differ, which child processes inherit.
SWEEP_VARIABLE = "OPT_RUNNER_SWEEP"
_TITLED = {"method.name", "model.name", "dataset.name", "seed"}  # keys in the title of every run


def sweep_variable(sweep_id: str, configs: Sequence[Config], keys: Iterable[str] = ()) -> str:
    """Return the value of SWEEP_VARIABLE. keys: those that a search varies."""
    contents = [dotted(one.content) for one in configs]
    # A key that only some of them have belongs to a method or a network, which titles name.
    shared = set.intersection(*map(set, contents)) if contents else set()
    differing = {k for k in shared if any(one[k] != contents[0][k] for one in contents)}
    return " ".join([sweep_id, *sorted(differing | {*keys})])


def title(config: Config) -> str:
    """Return the title of a run, with the values in which it differs from others of its sweep."""
    content = dotted(config.content)
    _, keys = of_sweep()
    own = [k for k in keys if k in content and k not in _TITLED and not k.endswith("._target_")]
    return " ".join([config.title, *(f"{key}={as_typed(content[key])}" for key in own)])


def of_sweep() -> tuple[str | None, list[str]]:
    """Return the sweep's id, None without a sweep, and the keys in which its runs differ."""
    name, *keys = os.environ.get(SWEEP_VARIABLE, "").split(" ")
    return name or None, keys
