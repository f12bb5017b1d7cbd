"""A run's record on disk: every file is written whole or not at all.

    config.yaml     the run's config             metrics.jsonl            losses and evaluations
    result.json     how it ended                 checkpoint.pt            the state to resume from
    run.log         messages, tracebacks         checkpoint.previous.pt   the checkpoint before it
    command.txt     the command that repeats it  weights.safetensors      the trained network
    job.json, job.log      the run's Slurm job and its output
    wandb.txt, mlflow.txt  the run's ids in W&B and MLflow; with W&B online also its address
    metrics.csv, events.out.tfevents.*     of tracking=csv and tensorboard
    prune           a search asks the run to stop

Reports read these files and nothing else.
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
from opt_runner.files import (
    CannotWrite,
    Lock,
    is_locked,
    locked,
    make_folder,
    no_links,
    remove_abandoned,
    set_aside,
    write_whole,
)
from opt_runner.records.reading import read_text
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
        self._lock: Lock | None = None

    def read_result(self) -> Result | None:
        return Result.read(self.result)

    def checkpoints(self) -> list[Path]:
        """Return the existing checkpoints, the newest first."""
        return [path for path in (self.checkpoint, self.previous_checkpoint) if path.exists()]

    def drop_checkpoints(self) -> None:
        for path in self.checkpoints():
            path.unlink(missing_ok=True)

    def wandb_id(self) -> str:
        """Return the record's own id in W&B, made once.

        A resumed run keeps its id; a rerun has a new one, as has one whose file is empty. Raises
        CannotWrite.
        """
        words = self.wandb.read_text().split() if self.wandb.exists() else []
        if not words:
            words = [secrets.token_hex(6)]
            write_whole(self.wandb, words[0] + "\n")
        return words[0]

    def wandb_url(self) -> str | None:
        """Return the address of the record's run in W&B, or None if it was never online."""
        try:
            found = read_text(self.wandb).split()[1:]
        except (OSError, UserError):
            return None
        return found[0] if found and found[0].startswith(("https://", "http://")) else None

    def check_held(self) -> None:
        """Raise CannotWrite if the record was removed while this process holds it.

        Another process may have started the run again, and both would write the same files.
        """
        if self._lock is not None and not self._lock.intact:
            reason = "the record was removed or replaced while its run went on"
            raise CannotWrite(self.directory, OSError(errno.ESTALE, reason))

    def write_result(self, result: Result) -> None:
        self.check_held()
        result.write(self.result)

    def result_time(self) -> int | None:
        """Return the time in ns at which the result was written; None without a result."""
        try:
            return self.result.stat().st_mtime_ns
        except OSError:
            return None

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a row, whole or not at all. Raises CannotWrite."""
        self.check_held()
        line = (json.dumps(finite(row)) + "\n").encode()
        try:
            with open(self.metrics, "ab", buffering=0, opener=no_links) as file:
                size = os.fstat(file.fileno()).st_size
                try:
                    if file.write(line) < len(line):  # the disk became full in the middle
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(size)
                    raise
        except OSError as error:
            raise CannotWrite(self.metrics, error) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the rows, without one that a kill cut off in the middle.

        Raises ValueError with the file and the line for one that is no JSON.
        """
        rows = []
        for number, line in enumerate(self._metrics().split(b"\n")[:-1], 1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{self.metrics}, line {number}: {error}") from error
        return rows

    def keep_metrics(self, size: int) -> bool:
        """Drop the rows after the first `size` bytes. Return False if these are not whole rows.

        Raises CannotWrite.
        """
        if not self.holds_metrics(size):
            return False
        if self.metrics.exists():
            try:
                with open(self.metrics, "r+b", opener=no_links) as file:
                    file.truncate(size)
            except OSError as error:
                raise CannotWrite(self.metrics, error) from error
        return True

    def holds_metrics(self, size: int) -> bool:
        """Return True if metrics.jsonl has `size` bytes or more, and these are whole rows."""
        kept = self._metrics()[:size]
        try:
            for line in kept.splitlines():
                json.loads(line)
        except ValueError:
            return False
        return len(kept) == size and (size == 0 or kept.endswith(b"\n"))

    def _metrics(self) -> bytes:
        """Return the content of metrics.jsonl. A pipe in its place is not waited for."""
        return self.metrics.read_bytes() if self.metrics.is_file() else b""

    def metrics_size(self) -> int:
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def set_aside(self) -> Path | None:
        """Move an old record to `<directory>.old-N`, so that a new one can start.

        It is one rename, so a kill cannot interrupt it. The lock moves too: hold the record for
        this call, release it, and hold the new one. Raises CannotWrite.
        """
        if not self.result.exists() and not self.checkpoints():
            return None
        self.check_held()
        try:
            return set_aside(self.directory, "old")
        except OSError as error:
            raise CannotWrite(self.directory, error) from error

    @contextlib.contextmanager
    def held(self, busy: Callable[[str], None]) -> Iterator[None]:
        """Hold the run. While another process holds it, call `busy` with its name, and wait.

        Raises what `busy` raises, and UserError if the directory cannot be written.
        """
        make_folder(self.directory, "output_dir")
        with locked(self.directory / "lock", busy) as self._lock:
            try:
                remove_abandoned(self.directory)
                self._set_odd_files_aside()
                yield
            finally:
                self._lock = None

    def _set_odd_files_aside(self) -> None:
        """Rename pipes, devices and folders that stand in the place of this run's files."""
        for path in (self.config, self.metrics, self.result, self.log, self.command, self.weights,
                     self.wandb, self.prune, *self.checkpoints()):  # fmt: skip
            if path.exists() and not path.is_file():
                with contextlib.suppress(OSError):
                    set_aside(path)

    def is_held(self) -> bool:
        """Return True if another process holds the run."""
        return is_locked(self.directory / "lock")
