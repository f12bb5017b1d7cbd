"""What a run is, known before any work: its dataset, its signature, its record."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from opt_runner.config import components
from opt_runner.config.schema import Config
from opt_runner.config.signature import signature
from opt_runner.console import wandb
from opt_runner.datasets import Dataset
from opt_runner.records.record import Record
from opt_runner.training.device import find_device


@dataclass(frozen=True)
class Run:
    """data: the fingerprint of the dataset. command: what makes this run."""

    config: Config
    dataset: Dataset
    data: str
    signature: str
    record: Record
    command: str

    @property
    def title(self) -> str:
        return self.config.title


def identify(config: Config, command: str = "", check_device: bool = True) -> Run:
    """check_device: whether the run's device is this machine's, and must be there. Else a device
    that the config names is known, and `auto` is not.

    Raises UserError where the data, the device or W&B's key is missing.
    """
    wandb.check(config.tracking)
    dataset: Dataset = components.build(config.dataset, "dataset")
    dataset.check()
    device = find_device(config.hardware).type if check_device else config.hardware.device
    data = dataset.fingerprint()
    name = signature(config, data, device.partition(":")[0])
    return Run(config, dataset, data, name, Record(config.directory(name)), command)


def command_line(config_folders: Sequence[str], overrides: Sequence[str]) -> str:
    """opt-run with these arguments. A sweep's experiment makes it a sweep, of this one run."""
    folders = [part for folder in config_folders for part in ("--config-dir", folder)]
    return shlex.join(["opt-run", *folders, *overrides])
