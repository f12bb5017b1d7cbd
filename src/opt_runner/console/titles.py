"""Titles of runs in W&B, which say what differs in their sweep."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from opt_runner.config.schema import Config

# The sweep's id and the keys in which its runs differ, which child processes inherit.
SWEEP_VARIABLE = "OPT_RUNNER_SWEEP"
_IN_TITLE = ("method.", "model.name", "model._target_", "dataset.", "seed", "hardware.device")


def sweep_variable(sweep_id: str, configs: Sequence[Config], keys: Iterable[str] = ()) -> str:
    """Return the value of SWEEP_VARIABLE. keys: those that a search varies."""
    contents = [_dotted(one.content) for one in configs if one.tracking.name == "wandb"]
    differing = {k for c in contents[1:] for k, v in c.items() if contents[0].get(k) != v}
    return " ".join([sweep_id, *sorted(differing | {*keys})])


def title(config: Config) -> str:
    """Return the title of a run, with the values in which it differs from others of its sweep."""
    content = _dotted(config.content)
    _, keys = of_sweep()
    own = [k for k in keys if content.get(k) is not None and not k.startswith(_IN_TITLE)]
    return " ".join([config.title, *(f"{key}={content[key]}" for key in own)])


def of_sweep() -> tuple[str | None, list[str]]:
    """Return the sweep's id, None without a sweep, and the keys in which its runs differ."""
    name, *keys = os.environ.get(SWEEP_VARIABLE, "").split(" ")
    return name or None, keys


def _dotted(node: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= _dotted(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return found
