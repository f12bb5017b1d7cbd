"""Rows of metrics and configs as trackers want them: flat."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from statistics import fmean
from typing import Any

from opt_runner.config.schema import Config, Role, as_typed, dotted, of_roles
from opt_runner.records.result import Result


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a row of metrics; a quantity of every layer is its mean."""
    plain = {k: v for k, v in row.items() if isinstance(v, int | float)}
    return plain | {f"{k}/mean": fmean(layers.values()) for k, layers in by_layer(row)}


def by_layer(row: dict[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield quantities of layers as name and {layer: value}, without values that are None.

    {layer: {s: value}}, as the energy has, is a quantity `NAME/s` for each s.
    """
    for name, layers in row.items():
        if not isinstance(layers, dict):
            continue
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for layer, value in layers.items():
            of_layer = value.items() if isinstance(value, dict) else [("", value)]
            for suffix, one in of_layer:
                if isinstance(one, int | float):
                    found[f"{name}/{suffix}".removesuffix("/")][layer] = one
        yield from found.items()


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """Return nested values under keys as `energy_excess/layer/1`, without those that are None."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            found |= {f"{key}/{inner}": v for inner, v in flat(value).items()}
        elif value is not None:
            found[key] = value
    return found


def final(result: Result) -> dict[str, float]:
    """Return the numbers of a result, as `final/seconds`, without those of layers."""
    return {
        f"final/{key}": value
        for key, value in {**asdict(result), **result.tested}.items()
        if isinstance(value, int | float) and key not in ("seed", "metrics_size")
    }


def hyperparameters(config: Config) -> dict[str, bool | int | float | str]:
    """Return the dotted keys and values of a config that change a run's result."""
    values = dotted(of_roles(config.content, Role.TABLE, Role.METHOD, Role.SEED))
    return {k: v if isinstance(v, int | float | str) else as_typed(v) for k, v in values.items()}
