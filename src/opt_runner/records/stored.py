"""Runs as reports and sweeps see them: the content of their records on disk."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from opt_runner.config.schema import Role, dotted, of_roles
from opt_runner.errors import UserError
from opt_runner.records.reading import DamagedFile, folders_below, read_text, read_yaml
from opt_runner.records.record import Record
from opt_runner.records.result import Result

_DIRECTORY = re.compile(r"seed\d+-[0-9a-f]{12}")


class _Named(BaseModel):
    name: str


class _Known(BaseModel, strict=True):
    """The keys of a config that tables need; without them it is not a config of opt-run."""

    seed: int
    method: _Named
    model: _Named
    dataset: _Named
    hardware: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]


@dataclass(frozen=True)
class StoredRun:
    """A run on disk: its config as written, and its result or None.

    damage: the fault of its result.json, if that cannot be read.
    """

    record: Record
    config: dict[str, Any]
    result: Result | None
    damage: str | None = None

    @property
    def status(self) -> str:
        """Return `damaged`, `not finished` or the status of the result."""
        if self.damage:
            return "damaged"
        return self.result.status if self.result else "not finished"

    @property
    def fault(self) -> str | None:
        """Return the reason why the run did not finish, if its record has it."""
        return self.damage or (self.result.error if self.result else None)

    @property
    def signature(self) -> str:
        """Return the hash at the end of the directory's name."""
        return self.record.directory.name.rpartition("-")[2]

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def method(self) -> str:
        return str(self.config["method"]["name"])

    @cached_property
    def method_keys(self) -> dict[str, Any]:
        """Return the dotted keys and values that make a row of a table."""
        return dotted(of_roles(self.config, Role.METHOD))

    @cached_property
    def table_keys(self) -> dict[str, Any]:
        """Return the dotted keys and values that make a table, of keys that change a result."""
        return dotted(of_roles(self.config, Role.TABLE))

    @property
    def versions(self) -> tuple[str, ...]:
        """Return (opt_runner's version, torch's, kind of device, data fingerprint).

        Empty if the run failed before it had a device.
        """
        if self.result is None or not self.result.device:
            return ()
        versions = [self.result.versions.get(name, "?") for name in ("opt_runner", "torch")]
        return (*versions, self.result.device.split(" ")[0], self.result.data or "?")

    @property
    def command(self) -> str:
        """Return the command that repeats this run, empty if its file is missing or damaged."""
        try:
            return read_text(self.record.command).strip()
        except (OSError, UserError):
            return ""


def find(
    folders: Iterable[Path], fault: Callable[[str], None], allow_none: bool = False
) -> list[StoredRun]:
    """Return all runs below the folders, sorted by path, without the records set aside.

    fault: see `folders_below`. Raises UserError if a folder is missing or, unless `allow_none`,
    holds no run.
    """
    found: dict[Path, StoredRun] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: give a folder that opt-run wrote, as outputs")
        any_here = False
        for directory, files in folders_below([folder], fault):
            if directory.is_symlink():
                directory = directory.resolve()  # to a run, whose own name has its signature
            ours = _DIRECTORY.fullmatch(directory.name) or "command.txt" in files
            if ours or "config.yaml" in files:
                try:
                    found[directory.resolve()] = load(directory)
                    any_here = True
                except UserError as error:
                    if ours:
                        fault(f"left out: {error}")
        if not (allow_none or any_here):
            raise UserError(f"{folder} holds no records of opt-run")
    return [found[path] for path in sorted(found)]


def read(directory: Path) -> StoredRun | None:
    """Return the run of a directory, or None if its config.yaml is missing or damaged."""
    try:
        return load(directory)
    except UserError:
        return None


def load(directory: Path) -> StoredRun:
    """Return the run of a directory. Raises UserError if its config.yaml is missing or damaged."""
    record = Record(directory)
    try:
        config = read_yaml(record.config)
        _Known.model_validate(config)
    except FileNotFoundError as error:
        raise UserError(f"{directory} has no config.yaml") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DamagedFile(f"{record.config} is damaged: {key}: {first['msg']}") from error
    try:
        return StoredRun(record, config, record.read_result())
    except UserError as error:
        return StoredRun(record, config, None, str(error))


def read_on_any_device(planned: StoredRun) -> StoredRun | None:
    """Return the record of a run whose device was not known before it ran elsewhere.

    The device is in the signature, so the record is in another directory beside the planned one.
    """
    folder, keys = planned.record.directory.parent, (planned.table_keys, planned.method_keys)
    beside = (read(p) for p in folder.glob(f"seed{planned.seed}-*") if ".old-" not in p.name)
    same = [run for run in beside if run and (run.table_keys, run.method_keys) == keys]
    return max(same, key=lambda run: run.record.config.stat().st_mtime, default=None)
