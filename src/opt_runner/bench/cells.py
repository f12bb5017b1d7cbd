"""Cells whose loops and steps are timed: the config that `opt-run` composes, without running it."""

import hydra

from opt_runner import config
from opt_runner.config import Config


def compose(*overrides: str) -> Config:
    """The checked config of `opt-run` with these arguments, not tracked."""
    with hydra.initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return config.compose("config", ["tracking=none", *overrides])
