"""A cell's record on disk: every file is written whole or not at all.

    config.yaml     the cell's config            metrics.jsonl   a row a report
    result.json     how it ended                 checkpoint.pt   where to go on from
    run.log         what was said, and tracebacks

Everything that reports reads these files and nothing else.
"""

import contextlib
import fcntl
import itertools
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Literal, Self

from opt_runner.errors import UserError

Status = Literal["finished", "failed", "diverged", "interrupted"]


@dataclass
class Result:
    """result.json. Errors are in percent; what a cell did not reach is None."""

    status: Status
    signature: str
    method: str
    model: str
    dataset: str
    seed: int
    error: str | None = None
    steps: int = 0
    test_error: float | None = None
    best_test_error: float | None = None
    train_loss: float | None = None
    energy_start: dict[str, float] | None = None
    energy_end: dict[str, float] | None = None
    orthogonality_error: float | None = None
    trainable_parameters: int | None = None
    effective_parameters: int | None = None
    seconds: float = 0.0
    images_per_second: float | None = None
    device: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Running the same cell again would give the same: nothing is left to do."""
        return self.status in ("finished", "diverged")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The result at `path`, or None where none is there yet.

        Raises UserError, naming the file, for one that is damaged.
        """
        try:
            content = json.loads(path.read_text())
            known = {f.name for f in fields(cls)}
            return cls(**{key: value for key, value in content.items() if key in known})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged: {error}") from error


class Record:
    """The directory of one cell."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "config.yaml"
        self.metrics = directory / "metrics.jsonl"
        self.result = directory / "result.json"
        self.checkpoint = directory / "checkpoint.pt"
        self.log = directory / "run.log"

    def read_result(self) -> Result | None:
        return Result.read(self.result)

    def set_result_aside(self) -> Path:
        """Rename a damaged result.json; nothing is deleted."""
        aside = unused(self.result, "damaged")
        self.result.rename(aside)
        return aside

    def write_result(self, result: Result) -> None:
        write_whole(self.result, json.dumps(_finite(asdict(result)), indent=2) + "\n")

    def append_metrics(self, row: dict[str, Any]) -> None:
        with self.metrics.open("a") as file:
            file.write(json.dumps(_finite(row)) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.metrics.read_text().splitlines()]

    def truncate_metrics(self, size: int) -> None:
        """Drop the rows written after the checkpoint that holds this size."""
        if self.metrics.exists() or size:
            os.truncate(self.metrics, size)

    def metrics_size(self) -> int:
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def set_aside(self) -> Path | None:
        """Move an old record to `<directory>.old-N`, so that a new one can start."""
        if not self.result.exists() and not self.checkpoint.exists():
            return None
        aside = unused(self.directory, "old")
        aside.mkdir()
        for path in self.directory.iterdir():
            if path.name != "lock":
                path.rename(aside / path.name)
        return aside

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the cell: a second process on the same cell waits, having called `waiting`.

        The lock is the kernel's: that of a dead process is gone with it.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / "lock").open("w")
        except OSError as error:
            raise UserError(
                f"cannot write to {self.directory}: {error.strerror}; set output_dir=DIR"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _finite(value: Any) -> Any:
    """`value` with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def unused(path: Path, word: str) -> Path:
    """`<path>.<word>-N` with the first N that is free."""
    numbered = (path.with_name(f"{path.name}.{word}-{n}") for n in itertools.count(1))
    return next(candidate for candidate in numbered if not candidate.exists())


def write_whole(path: Path, content: str | Callable[[IO[bytes]], None]) -> None:
    """Write `path` whole or not at all: temporary file, fsync, rename."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            if isinstance(content, str):
                file.write(content.encode())
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
