"""From what stands on the command line to a checked config.

This module does not import torch: help and completion must answer at once.
"""

from collections.abc import Sequence
from pathlib import Path

import hydra
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
    except ValueError as error:  # of a group that is given a number, say
        raise UserError(str(error)) from error
    return read(cfg)


def from_arguments(*arguments: str) -> Config:
    """The config that `opt-run` with these arguments would have; raises what `compose` does."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", arguments)


def read(cfg: DictConfig) -> Config:
    """The composed config, checked against the schema and the components' signatures.

    Raises UserError, one line a fault.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if isinstance(error, MissingMandatoryValue):
            raise UserError(f"{error.full_key} must be given: {error.full_key}=VALUE") from error
        raise UserError(str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    try:
        config = Config.model_validate({str(key): value for key, value in plain.items()})
    except ValidationError as error:
        raise UserError(_explain_nested(error)) from error
    components.check(config.method, "method")
    components.check(config.model, "model", NETWORK_SUPPLIED)
    components.check(config.dataset, "dataset")
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
