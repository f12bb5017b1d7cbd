"""A run's record on disk: every file is written whole or not at all.

    config.yaml     the run's config             metrics.jsonl            a row a report
    result.json     how it ended                 checkpoint.pt            where to go on from
    run.log         what was said, tracebacks    checkpoint.previous.pt   the one before it
    command.txt     what makes this run          weights.safetensors      the trained network
    job.json, job.log      of its job, under Slurm
    wandb.txt       its id in W&B
    prune           a search stops the run

Everything that reports reads these files and nothing else.
"""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from opt_runner.errors import UserError
from opt_runner.files import CannotWrite, is_locked, locked, unused, write_whole
from opt_runner.records.result import Result, finite


class Record:
    """The directory of one run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "config.yaml"
        self.metrics = directory / "metrics.jsonl"
        self.result = directory / "result.json"
        self.checkpoint = directory / "checkpoint.pt"
        self.previous_checkpoint = directory / "checkpoint.previous.pt"
        self.weights = directory / "weights.safetensors"
        self.log = directory / "run.log"
        self.command = directory / "command.txt"
        self.prune = directory / "prune"
        self.wandb = directory / "wandb.txt"
        self.job = directory / "job.json"

    def read_result(self) -> Result | None:
        return Result.read(self.result)

    def checkpoints(self) -> list[Path]:
        """Those that are there, the newest first."""
        return [path for path in (self.checkpoint, self.previous_checkpoint) if path.exists()]

    def drop_checkpoints(self) -> None:
        """Delete the checkpoints of a run that is over."""
        for path in self.checkpoints():
            path.unlink(missing_ok=True)

    def wandb_id(self) -> str:
        """Return the record's own id in W&B, made once: a resumed run keeps it, a rerun has a new
        one. Raises CannotWrite."""
        if not self.wandb.exists():
            write_whole(self.wandb, secrets.token_hex(6) + "\n")
        return self.wandb.read_text().strip()

    def write_result(self, result: Result) -> None:
        result.write(self.result)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a row, whole or not at all. Raises CannotWrite."""
        size = self.metrics_size()
        try:
            with self.metrics.open("ab", buffering=0) as file:
                line = (json.dumps(finite(row)) + "\n").encode()
                if file.write(line) < len(line):  # as where the disk is full after half of it
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.metrics, size)
            raise CannotWrite(self.metrics, error) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows; one that was cut off in the middle, by a kill, is left out."""
        lines = self.metrics.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def keep_metrics(self, size: int) -> bool:
        """Drop the rows after the first `size` bytes. False where those are not whole rows."""
        if not self.holds_metrics(size):
            return False
        if self.metrics.exists():
            os.truncate(self.metrics, size)
        return True

    def holds_metrics(self, size: int) -> bool:
        """Whether the first `size` bytes of metrics.jsonl are there and are whole rows."""
        kept = self.metrics.read_bytes()[:size] if self.metrics.exists() else b""
        try:
            for line in kept.splitlines():
                json.loads(line)
        except ValueError:
            return False
        return len(kept) == size and (size == 0 or kept.endswith(b"\n"))

    def metrics_size(self) -> int:
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def set_aside(self) -> Path | None:
        """Move an old record to `<directory>.old-N`, so that a new one can start."""
        if not self.result.exists() and not self.checkpoints():
            return None
        aside = unused(self.directory, "old")
        try:
            aside.mkdir()
            for path in self.directory.iterdir():
                if path.name != "lock":
                    path.rename(aside / path.name)
        except OSError as error:
            raise CannotWrite(aside, error) from error
        return aside

    @contextlib.contextmanager
    def held(self, busy: Callable[[str], None]) -> Iterator[None]:
        """Hold the run. Where another process has it, call `busy` with who that is, then wait.

        Raises what `busy` raises, and UserError where the directory cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write to {self.directory}: {error.strerror}; set output_dir=DIR"
            ) from error
        with locked(self.directory / "lock", busy):
            self._remove_unfinished()
            yield

    def is_held(self) -> bool:
        """Whether another process has the run."""
        return is_locked(self.directory / "lock")

    def _remove_unfinished(self) -> None:
        """What a killed process was writing; nobody else writes here while the run is held."""
        for path in (self.config, self.command, self.result, self.checkpoint, self.weights):
            for unfinished in self.directory.glob(f".{path.name}.*"):
                with contextlib.suppress(OSError):
                    unfinished.unlink()
