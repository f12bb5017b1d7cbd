"""Composition of a checked config from the words of a command line."""

import copy
import json
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from opt_runner.config import components
from opt_runner.config.overrides import parse, with_quoted_texts
from opt_runner.config.schema import Config, dotted
from opt_runner.errors import UserError, explained

# Parameters of a network that may be null in the config. What else it gets is up to the dataset.
_NETWORK_SUPPLIED = frozenset({"in_channels", "image_size", "num_classes", "bn_momentum"})
_TRACKER_SUPPLIED = frozenset({"config", "signature", "title", "folder", "rows", "screen"})
_OPTIMIZER_SUPPLIED = frozenset({"params", "lr", "weight_decay"})


def compose(config_name: str, overrides: Sequence[str]) -> Config:
    """Return the checked config that Hydra, once initialized, composes from these overrides.

    Raises UserError, or an exception of Hydra or OmegaConf, for a mistake in the overrides.
    """
    try:
        cfg = hydra.compose(config_name, with_quoted_texts(overrides, text_keys()))
    except (ValueError, TypeError) as error:  # a group got a number or a list, for example
        raise UserError(str(error)) from error
    return read(cfg)


def from_arguments(*arguments: str) -> Config:
    """Return the config of `opt-run` with these arguments. Raises as `compose` does."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", arguments)


class Composer:
    """A faster `compose` for the runs of a sweep.

    Hydra needs a tenth of a second for a config. This composes once for all runs that differ only
    in plain values of keys, such as `seed`.
    """

    def __init__(self, config_name: str) -> None:
        self.config_name = config_name
        self._composed: dict[tuple[str, ...], dict[str, Any] | None] = {}
        self._groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}

    def __call__(self, overrides: Sequence[str]) -> Config:
        values: dict[str, Any] = {}
        others = []
        for word in overrides:
            override = parse(word)
            key = override.key_or_group
            if self._is_plain(override):
                values[key] = override.value()
                continue
            others.append(word)
            # This override replaces earlier values of keys below it.
            chooses = key in self._groups and isinstance(override.value(), str)
            if not chooses and any(f"{k}.".startswith(f"{key}.") for k in values):
                return compose(self.config_name, overrides)
        base = self._base(tuple(others))
        if base is None or not values.keys() <= dotted(base).keys():
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
        """Return True for key=number, key=true and key=null, which need no rules of Hydra."""
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and override.key_or_group not in self._groups
            and "/" not in override.key_or_group
            and not override.is_sweep_override()
            and (override.value() is None or isinstance(override.value(), bool | int | float))
        )

    def _base(self, overrides: tuple[str, ...]) -> dict[str, Any] | None:
        """Return the unchecked config of these overrides; None if values refer to other values."""
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
    """Return a record's config with some nodes changed, such as `dataset`.

    It is checked against the schema alone, as a stranger may have written it.

    plain: the config of the record. overrides: the changes, as on opt-run's command line.
    rooms: the nodes that may change. folder: the value of --config-dir.
    Raises UserError, or an exception of Hydra or OmegaConf, for a mistake in the overrides.
    """
    words = {word: parse(word) for word in with_quoted_texts(overrides, text_keys())}
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
    return validate(changed)


def read(cfg: DictConfig) -> Config:
    """Return the composed config after `check`."""
    return check(_plain(cfg))


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """Return a config as plain values. Raises UserError if one is missing."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if isinstance(error, MissingMandatoryValue):
            raise UserError(f"{error.full_key} must be given: {error.full_key}=VALUE") from error
        raise UserError(str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def check(plain: dict[str, Any]) -> Config:
    """Return a config checked against the schema and the components' signatures.

    The components are imported. Raises UserError, one line a fault.
    """
    config = validate(plain)
    components.check(config.method, "method")
    supplied = _NETWORK_SUPPLIED | components.unfilled(config.model, "model")
    components.check(config.model, "model", supplied)
    components.check(config.dataset, "dataset", frozenset(config.dataset.for_class))
    components.check(config.optimizer, "optimizer", _OPTIMIZER_SUPPLIED)
    components.check(config.schedule, "schedule", whole=True)
    if config.augment.then:
        components.check(config.augment.then, "augment.then")
    for name, tracker in config.tracking.trackers.items():
        components.check(tracker, f"tracking.{name}", _TRACKER_SUPPLIED)
    for position, other in enumerate(config.layers.rest):
        where = f"layers.rest.{position}"
        components.check(components.named_method(other.method, other.options, where), where)
    return config


def validate(plain: dict[str, Any]) -> Config:
    """Return a config checked against the schema. Nothing that it names is imported.

    Raises UserError, one line a fault.
    """
    with explained("", (key for key, _ in _annotations(Config))):
        try:
            return Config.model_validate(plain)
        except ValidationError:
            _check_packages(plain)
            raise


def _check_packages(plain: dict[str, Any]) -> None:
    """Raise UserError if a group has keys of the whole config, such as `dataset.dataset`.

    Its file then lacks the line `# @package _global_`.
    """
    for group, node in plain.items():
        if not isinstance(node, dict) or "_target_" in node or not (conf_dir() / group).is_dir():
            continue
        if keys := [key for key in node if key in Config.model_fields]:
            raise UserError(
                f"{group}.{keys[0]}: a file of the group {group} that sets {keys[0]} of the whole "
                "config must begin with the line: # @package _global_"
            )


@cache
def text_keys() -> frozenset[str]:
    """Return the keys of the schema that hold text, dotted."""
    return frozenset(key for key, kind in _annotations(Config) if kind in (str, str | None))


def _annotations(node: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of a node and of the nodes inside it, with their types."""
    for key, field in node.model_fields.items():
        yield f"{path}{field.alias or key}", field.annotation
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _annotations(field.annotation, f"{path}{key}.")


def suiting(gives: frozenset[str]) -> list[str]:
    """Return the choices of `model` in conf/ that need nothing but these parameters."""
    found = []
    for path in sorted((conf_dir() / "model").glob("*.yaml")):
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        assert isinstance(content, dict)
        model = components.Component.model_validate({**content, "name": path.stem})
        if components.unfilled(model, "model") <= gives:
            found.append(path.stem)
    return found


def conf_dir() -> Path:
    """Return conf/: the copy in the installed package, or the checkout's."""
    package = Path(__file__).parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


def refuse_doubles(folder: Path) -> None:
    """Raise UserError for a config file of the package's name, whose place the package's takes."""
    for ours in conf_dir().rglob("*.yaml"):  # not the folder, which may be large
        path = folder / ours.relative_to(conf_dir())
        if path.is_file() and path.read_bytes() != ours.read_bytes():
            raise UserError(
                f"{path} has the name of a file of opt-runner, which Hydra reads in its place: "
                "rename it"
            )


def config_arguments(hydra_config: Any) -> list[str]:
    """Return the options of the command that Hydra runs which choose config files."""
    options = {"command-line": "--config-dir", "main": "--config-path"}
    arguments = []
    for source in hydra_config.runtime.config_sources:
        if source.provider in options and source.path != str(conf_dir()):
            arguments += [options[source.provider], source.path]
    name = hydra_config.job.config_name
    return arguments if name == "config" else [*arguments, "--config-name", name]


def command(words: Sequence[str]) -> str:
    """Return the command that repeats a run, without what it was to do with an older record."""
    once = ("rerun", "when_locked")
    kept = [word for word in words if word.lstrip("+").partition("=")[0] not in once]
    return shlex.join(["opt-run", *kept])
