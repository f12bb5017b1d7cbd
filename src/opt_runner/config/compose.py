"""From what stands on the command line to a checked config.

This module does not import torch: help and completion must answer at once.
"""

import copy
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError

from opt_runner.config import components
from opt_runner.config.schema import Config, Node
from opt_runner.errors import UserError, explain

# What a component is given beside its options in the config.
NETWORK_SUPPLIED = frozenset({"in_channels", "image_size", "num_classes", "bn_momentum"})


def compose(config_name: str, overrides: Sequence[str]) -> Config:
    """What Hydra, initialized, composes from these overrides, checked.

    Raises UserError and Hydra's and OmegaConf's exceptions for a mistake in the overrides.
    """
    try:
        cfg = hydra.compose(config_name, list(overrides))
    except (ValueError, TypeError) as error:  # of a group that is given a number or a list, say
        raise UserError(str(error)) from error
    return read(cfg)


def from_arguments(*arguments: str) -> Config:
    """The config that `opt-run` with these arguments would have; raises what `compose` does."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", arguments)


class Composer:
    """`compose` for the many runs of a grid: Hydra composes once for all that differ in plain
    values of keys alone, as `seed`, which takes it a tenth of a second."""

    def __init__(self, config_name: str) -> None:
        self.config_name = config_name
        self._composed: dict[tuple[str, ...], dict[str, Any] | None] = {}
        self._groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}

    def __call__(self, overrides: Sequence[str]) -> Config:
        values: dict[str, Any] = {}
        others = []
        for word in overrides:
            override = _parse(word)
            if self._is_plain(override):
                values[override.key_or_group] = override.value()
            else:
                others.append(word)
        base = self._base(tuple(others))
        if base is None or not all(_has(base, key) for key in values):
            return compose(self.config_name, overrides)
        plain = copy.deepcopy(base)
        for key, value in values.items():
            *path, last = key.split(".")
            node = plain
            for part in path:
                node = node[part]
            node[last] = value
        return check(plain)

    def _is_plain(self, override: Override) -> bool:
        """key=number, key=true, key=null: what needs none of Hydra's rules."""
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and override.key_or_group not in self._groups
            and "/" not in override.key_or_group
            and not override.is_sweep_override()
            and (override.value() is None or isinstance(override.value(), bool | int | float))
        )

    def _base(self, overrides: tuple[str, ...]) -> dict[str, Any] | None:
        """The config of these overrides as plain values; None where values refer to others."""
        if overrides not in self._composed:
            cfg = hydra.compose(self.config_name, list(overrides))
            plain = OmegaConf.to_container(cfg, resolve=False)
            assert isinstance(plain, dict)
            refers = "${" in json.dumps(plain, default=str) or OmegaConf.missing_keys(cfg)
            named = {str(key): value for key, value in plain.items()}
            self._composed[overrides] = None if refers else named
        return self._composed[overrides]


def with_overrides(
    plain: dict[str, Any], overrides: Sequence[str], rooms: Sequence[str], folder: Path | None
) -> Config:
    """A record's config with other choices and values in these of its nodes, as `dataset`.

    overrides: as on opt-run's command line. folder: as its --config-dir.
    Raises UserError, and Hydra's and OmegaConf's exceptions, for a mistake in the overrides.
    """
    words = {word: _parse(word) for word in overrides}
    for word, override in words.items():
        node = override.key_or_group.partition(".")[0]
        if node not in rooms or override.is_sweep_override() or override.is_delete():
            known = " and ".join(f"{room}=CHOICE, {room}.KEY=VALUE" for room in rooms)
            raise UserError(f"{word}: only {known} can be changed")
    search = [f"hydra.searchpath=['{folder.absolute()}']"] if folder else []
    changed = dict(plain)
    for room in rooms:
        of_room = {w: o for w, o in words.items() if o.key_or_group.partition(".")[0] == room}
        if any(override.key_or_group == room for override in of_room.values()):
            with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
                cfg = hydra.compose("config", [*search, *of_room])
            changed[room] = _plain(cfg)[room]
        else:
            own = {o.key_or_group.partition(".")[2]: o.value() for o in of_room.values()}
            changed[room] = {**changed[room], **own}
    return check(changed)


@cache
def _parse(word: str) -> Override:
    return OverridesParser.create().parse_override(word)


def _has(node: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return not isinstance(node, dict)


def read(cfg: DictConfig) -> Config:
    """The composed config, checked: see `check`."""
    return check(_plain(cfg))


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """As plain values. Raises UserError where one is missing."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if isinstance(error, MissingMandatoryValue):
            raise UserError(f"{error.full_key} must be given: {error.full_key}=VALUE") from error
        raise UserError(str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def check(plain: dict[str, Any]) -> Config:
    """A config as plain values, checked against the schema and the components' signatures.

    Raises UserError, one line a fault.
    """
    try:
        config = Config.model_validate(plain)
    except ValidationError as error:
        raise UserError(_explain_nested(error)) from error
    components.check(config.method, "method")
    components.check(config.model, "model", NETWORK_SUPPLIED)
    components.check(config.dataset, "dataset")
    if config.augment.then:
        components.check(config.augment.then, "augment.then")
    for position, other in enumerate(config.layers.rest):
        where = f"layers.rest.{position}"
        components.check(components.named_method(other.method, other.options, where), where)
    return config


def _explain_nested(error: ValidationError) -> str:
    return explain(error, "", known_keys())


def known_keys(node: type[Node] = Config, path: str = "") -> list[str]:
    """Every key of the schema, dotted."""
    keys = []
    for key, field in node.model_fields.items():
        keys.append(f"{path}{key}")
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Node):
            keys += known_keys(inner, f"{path}{key}.")
    return keys


def conf_dir() -> Path:
    """conf/: the copy in the installed package, or the checkout's."""
    package = Path(__file__).parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"
