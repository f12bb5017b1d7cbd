"""A cell's record on disk: every file is written whole or not at all.

    config.yaml     the cell's config            metrics.jsonl            a row a report
    result.json     how it ended                 checkpoint.pt            where to go on from
    run.log         what was said, tracebacks    checkpoint.previous.pt   the one before it
    command.txt     what makes this cell

Everything that reports reads these files and nothing else.
"""

import contextlib
import errno
import fcntl
import itertools
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Literal, Self

from opt_runner.errors import UserError

# Of the histograms of angles between neurons, over 0 to 180 degrees.
ANGLE_BINS = 36


class CannotWrite(Exception):
    """A file of a record could not be written: what was there before is as it was."""

    def __init__(self, path: Path, error: OSError) -> None:
        reason = error.strerror or str(error)
        super().__init__(f"cannot write {path}: {reason}; make room, then run the command again")


class DamagedResult(UserError):
    """A result.json that is not as it was written."""


class Busy(Exception):
    """Another process has the cell."""


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
    data: str | None = None  # the dataset's fingerprint
    error: str | None = None
    steps: int = 0
    test_error: float | None = None
    best_test_error: float | None = None
    train_loss: float | None = None
    # By layer, see geometry.py. `energy` is E_1; `energy_excess` is by s as well, "0", "1", "2".
    energy_start: dict[str, float] | None = None
    energy_end: dict[str, float] | None = None
    energy_excess_start: dict[str, dict[str, float]] | None = None
    energy_excess_end: dict[str, dict[str, float]] | None = None
    half_space_excess_start: dict[str, float] | None = None
    half_space_excess_end: dict[str, float] | None = None
    largest_cosine_start: dict[str, float] | None = None
    largest_cosine_end: dict[str, float] | None = None
    angles_start: list[int] | None = None  # pairs of neurons by bin, see ANGLE_BINS
    angles_end: list[int] | None = None
    orthogonality_error: float | None = None
    trainable_parameters: int | None = None
    effective_parameters: int | None = None
    metrics_size: int | None = None  # of metrics.jsonl, in bytes
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

        Raises UserError, naming the file, for one that cannot be read, DamagedResult for one that
        is damaged.
        """
        try:
            content = json.loads(path.read_text())
            known = {f.name for f in fields(cls)}
            return cls(**{key: value for key, value in content.items() if key in known})
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise DamagedResult(f"{path} is damaged: {error}") from error


class Record:
    """The directory of one cell."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "config.yaml"
        self.metrics = directory / "metrics.jsonl"
        self.result = directory / "result.json"
        self.checkpoint = directory / "checkpoint.pt"
        self.previous_checkpoint = directory / "checkpoint.previous.pt"
        self.log = directory / "run.log"
        self.command = directory / "command.txt"

    def read_result(self) -> Result | None:
        return Result.read(self.result)

    def checkpoints(self) -> list[Path]:
        """Those that are there, the newest first."""
        return [path for path in (self.checkpoint, self.previous_checkpoint) if path.exists()]

    def write_result(self, result: Result) -> None:
        write_whole(self.result, json.dumps(_finite(asdict(result)), indent=2) + "\n")

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a row, whole or not at all. Raises CannotWrite."""
        size = self.metrics_size()
        try:
            with self.metrics.open("ab", buffering=0) as file:
                line = (json.dumps(_finite(row)) + "\n").encode()
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
    def locked(self, busy: Callable[[str], None]) -> Iterator[None]:
        """Hold the cell. Where another process has it, call `busy` with who that is, then wait.

        The lock is the kernel's: that of a dead process is gone with it. Raises what `busy` raises.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / "lock").open("ab+", buffering=0)
        except OSError as error:
            raise UserError(
                f"cannot write to {self.directory}: {error.strerror}; set output_dir=DIR"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                busy(lock.read().decode() or "another process")
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise UserError(
                    f"{lock.name} cannot be locked ({error.strerror}): set output_dir to a file "
                    "system that has locks"
                ) from error
            self._remove_unfinished()
            with contextlib.suppress(OSError):  # who holds it is only a courtesy
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {platform.node()}".encode())
            yield

    def _remove_unfinished(self) -> None:
        """What a killed process was writing; nobody else writes here while the cell is held."""
        for path in (self.config, self.command, self.result, self.checkpoint):
            for unfinished in self.directory.glob(f".{path.name}.*"):
                with contextlib.suppress(OSError):
                    unfinished.unlink()


def _finite(value: Any) -> Any:
    """`value` with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def set_aside(path: Path) -> Path:
    """Rename a damaged file to `<path>.damaged-N`; nothing is deleted."""
    aside = unused(path, "damaged")
    path.rename(aside)
    return aside


def unused(path: Path, word: str) -> Path:
    """`<path>.<word>-N` with the first N that is free."""
    numbered = (path.with_name(f"{path.name}.{word}-{n}") for n in itertools.count(1))
    return next(candidate for candidate in numbered if not candidate.exists())


def write_whole(
    path: Path,
    content: str | Callable[[IO[bytes]], None],
    before_rename: Callable[[Path], None] | None = None,
) -> None:
    """Write `path` whole or not at all: temporary file, fsync, rename.

    before_rename: gets the temporary file, whole on disk; an error there keeps the old `path`.
    Raises CannotWrite.
    """
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            if isinstance(content, str):
                file.write(content.encode())
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        if before_rename:
            before_rename(Path(temporary))
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise CannotWrite(path, error) from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    """The rename itself survives a loss of power only so."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
