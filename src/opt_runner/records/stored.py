"""Runs as the reports see them: what their records on disk hold, and nothing else."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from opt_runner.config.schema import Role, of_roles
from opt_runner.errors import UserError
from opt_runner.records.record import Record
from opt_runner.records.result import Result

# libyaml's, ten times as fast as the one in Python, where PyYAML has it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class StoredRun:
    """A record: its config as written, and its result, None where it has none yet.

    damage: what is wrong with its result.json, where something is.
    """

    record: Record
    config: dict[str, Any]
    result: Result | None
    damage: str | None = None

    @property
    def status(self) -> str:
        if self.damage:
            return "damaged"
        return self.result.status if self.result else "not finished"

    @property
    def signature(self) -> str:
        return self.record.directory.name.rpartition("-")[2]

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def method(self) -> str:
        return str(self.config["method"]["name"])

    @cached_property
    def method_keys(self) -> dict[str, Any]:
        """Dotted keys and values that make a row of a table."""
        return _flat(of_roles(self.config, Role.METHOD))

    @cached_property
    def task_keys(self) -> dict[str, Any]:
        """Dotted keys and values that make a table: all else that changes a result."""
        return _flat(of_roles(self.config, Role.TASK))

    @property
    def versions(self) -> tuple[str, ...]:
        """Of the package and of torch, the kind of device, and the fingerprint of the data; empty
        for a run that did not get as far as its device."""
        if self.result is None or self.result.device is None:
            return ()
        versions = [self.result.versions.get(name, "?") for name in ("opt_runner", "torch")]
        return (*versions, self.result.device.split()[0], self.result.data or "?")

    @property
    def command(self) -> str:
        """The command that makes this run again."""
        try:
            return self.record.command.read_text().strip()
        except OSError:
            return ""


def find(folders: Iterable[Path], allow_none: bool = False) -> list[StoredRun]:
    """All runs below the folders, sorted by path; old and damaged records are left out.

    Raises UserError where a folder is missing or, unless that is allowed, holds none.
    """
    found: dict[Path, StoredRun] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: give one that opt-run wrote, as outputs")
        before = len(found)
        for root, names, files in os.walk(folder):
            names[:] = [name for name in names if not name.startswith(".") and ".old-" not in name]
            if "config.yaml" in files and ".old-" not in Path(root).name:
                run = read(Path(root))
                if run is not None:
                    found[Path(root).resolve()] = run
        new = len(found) > before or any(folder.resolve() in path.parents for path in found)
        if not new and not allow_none:
            raise UserError(f"{folder} holds no records of opt-run")
    return [found[path] for path in sorted(found)]


def read(directory: Path) -> StoredRun | None:
    """The run of a directory, or None where its config.yaml is none of ours."""
    record = Record(directory)
    try:
        config = yaml.load(record.config.read_text(), _Loader)
        config["method"]["name"], config["model"]["name"], config["dataset"]["name"]
        config["hardware"]["precision"], config["seed"], config["optimizer"], config["schedule"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
    try:
        return StoredRun(record, config, record.read_result())
    except UserError as error:
        return StoredRun(record, config, None, str(error))


def read_on_any_device(planned: StoredRun) -> StoredRun | None:
    """The record of a run that ran elsewhere, on a device that its plan did not know.

    The device is in the signature: the directory is another than planned, beside it.
    """
    folder = planned.record.directory.parent
    beside = (read(p) for p in folder.glob(f"seed{planned.seed}-*") if ".old-" not in p.name)
    same = [
        run
        for run in beside
        if run is not None
        and run.task_keys == planned.task_keys
        and run.method_keys == planned.method_keys
    ]
    return max(same, key=lambda run: run.record.config.stat().st_mtime, default=None)


def _flat(node: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {path: tuple(node) if isinstance(node, list) else node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{path}.{key}" if path else str(key))
    return flat
