"""Files that are written whole or not at all, and locks that die with their process."""

import contextlib
import itertools
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from opt_runner.errors import UserError

_WAIT_SECONDS = 0.5


class CannotWrite(Exception):
    """A file could not be written: what was there before is as it was."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.reason = error.strerror or str(error)
        super().__init__(
            f"cannot write {path}: {self.reason}; make room, then run the command again"
        )


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path`. While another process has it, wait, and call `busy` with who that
    is, twice a second: what it raises ends the waiting.

    The lock is the kernel's: that of a dead process is gone with it. Raises UserError on a file
    system without locks.
    """
    lock = FileLock(path, fallback_to_soft=False, preserve_lock_file=True, on_acquired=_sign)
    waits = False
    try:
        while not lock.is_locked:
            try:
                lock.acquire(timeout=_WAIT_SECONDS if waits else 0)
            except Timeout:
                waits = True
                busy(path.read_text() or "another process")
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"{path} cannot be locked ({error}): choose a folder on a file system that has locks"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def locked_where_possible(path: Path) -> Iterator[None]:
    """Wait for, and hold, the lock that keeps two processes from making the same files at once.

    Where nothing can be written nobody makes any, and some network file systems have no locks.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, UserError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path, busy=lambda holder: None))
        yield


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock file `path`."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0, fallback_to_soft=False, preserve_lock_file=True):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # the file system has no locks
        return False


def _sign(descriptor: int) -> None:
    """Write into the lock file who holds it."""
    with contextlib.suppress(OSError):  # it is only a courtesy
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)


def set_aside(path: Path, word: str = "damaged") -> Path:
    """Rename a file to `<path>.<word>-N`; nothing is deleted."""
    aside = unused(path, word)
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


def write_text_quickly(path: Path, content: str) -> None:
    """Replace `path` in one step, but without waiting for the disk: for what is not to be kept."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        temporary.write_text(content)
        temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    """The rename itself survives a loss of power only so."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
