"""A run, known before any work: its dataset, its signature, its record."""

import os
from contextlib import suppress
from dataclasses import dataclass

import yaml

from opt_runner import tracking
from opt_runner.config.schema import Config
from opt_runner.config.signature import signature
from opt_runner.config.titles import title
from opt_runner.console.screen import Screen
from opt_runner.datasets import Dataset
from opt_runner.errors import UserError
from opt_runner.files import CannotWrite, set_aside, write_whole
from opt_runner.records import stored
from opt_runner.records.reading import DamagedFile
from opt_runner.records.record import Record
from opt_runner.records.result import Result
from opt_runner.run.build import dataset_of
from opt_runner.run.device import find_device


@dataclass(frozen=True)
class Run:
    """A run. data: the fingerprint of the dataset. command: the command that repeats the run."""

    config: Config
    dataset: Dataset
    data: str
    signature: str
    record: Record
    command: str

    @property
    def title(self) -> str:
        return title(self.config)


class Identifier:
    """A function from configs to runs; runs on the same dataset share it, and it is read once.

    check_device: the runs are executed here, so their device must exist. If false, a device in the
    config is accepted, and `auto` stays unknown.
    """

    def __init__(self, check_device: bool = True) -> None:
        self.check_device = check_device
        self._datasets: dict[str, tuple[Dataset, str]] = {}  # with their fingerprints

    def __call__(self, config: Config, command: str = "") -> Run:
        """Return the run of a config.

        Raises UserError if data, a device, or a package or key of a tracker is missing.
        """
        tracking.check(config.tracking)
        key = config.dataset.model_dump_json()
        if key not in self._datasets:
            dataset = dataset_of(config.dataset)
            try:
                dataset.check()
                data = dataset.fingerprint()
            except OSError as error:
                raise UserError(f"dataset: {type(dataset).__name__}: {error}") from error
            if not isinstance(data, str):
                raise UserError(
                    f"dataset: {type(dataset).__name__}.fingerprint() returns {data!r}, not a text "
                    "that differs for other data"
                )
            self._datasets[key] = dataset, data
        dataset, data = self._datasets[key]
        device = config.hardware.device
        if self.check_device:
            device = find_device(config.hardware).type
        name = signature(config, data, device.partition(":")[0])
        return Run(config, dataset, data, name, Record(config.directory(name)), command)


def identify(config: Config, command: str = "", check_device: bool = True) -> Run:
    """Return the run of a config: see `Identifier`."""
    return Identifier(check_device)(config, command)


def write_config(run: Run) -> None:
    """Write config.yaml and command.txt. Raises CannotWrite."""
    content = yaml.safe_dump(run.config.content, sort_keys=False)
    write_whole(run.record.config, content)
    write_whole(run.record.command, run.command + "\n")


def _mend_config(run: Run, screen: Screen) -> None:
    """Write a lost or damaged config.yaml of a settled run anew; without it no report shows it."""
    try:
        stored.load(run.record.directory)
    except UserError as error:
        try:
            if os.path.lexists(run.record.config):
                set_aside(run.record.config)
            write_config(run)
        except (CannotWrite, OSError) as unwritten:
            screen.fail(f"{run.title}: {error}; {unwritten}")
        else:
            screen.say(f"{run.title}: {error}; it is written anew")


def settled_result(run: Run, screen: Screen, mend: bool = False) -> Result | None:
    """Return the result of a run if nothing is left to do, else None.

    A lost config.yaml is written anew.
    mend: set a damaged result aside. Only the holder of the run may do so.
    """
    try:
        result = run.record.read_result()
    except DamagedFile as error:
        if mend:
            screen.say(f"{run.title}: {error}; set aside as {set_aside(run.record.result).name}")
        return None
    if result is None or not result.settled:
        return None
    _mend_config(run, screen)
    with suppress(OSError):
        run.record.drop_checkpoints()  # a kill came between the result and their end
    screen.say(f"{run.title}: {result.status} before, skipped ({run.record.directory})")
    if result.metrics_size is not None and not run.record.holds_metrics(result.metrics_size):
        screen.say(
            f"{run.title}: its result is whole, but {run.record.metrics} is damaged and has no "
            "curves to draw; rerun=true trains the run again"
        )
    return result
