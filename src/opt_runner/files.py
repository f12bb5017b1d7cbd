"""Files that are written whole or not at all, and locks that die with their process."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import itertools
import os
import platform
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from opt_runner.errors import UserError

_WAIT_SECONDS = 0.5
_MOST_GONE = 100  # times that a folder is moved away while it is made
_SECONDS_TO_ANSWER = 20.0
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ADVICE = {
    **dict.fromkeys((None, *FULL), "make room, then"),  # PyTorch's errors have no number
    errno.ELOOP: "it is a symbolic link, and links are not followed: remove the link, then",
}
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}", re.DOTALL)


def expanded(path: str) -> str:
    """Return the path with a leading `~` or `~name` replaced by that user's home.

    Raises UserError if the home is not known.
    """
    found = os.path.expanduser(path)
    if found.startswith("~"):
        home = found.partition("/")[0]
        raise UserError(f"{path}: the folder {home} is not known (is HOME set?): write it out")
    return found


@contextlib.contextmanager
def readable(name: object) -> Iterator[None]:
    """Raise UserError for an OSError in the block, which reads the file of this name."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from error


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> str:
    """Return `sha256` of a file; it is read again only if its time or its size has changed."""
    state = path.stat()
    return _digest(path, state.st_mtime_ns, state.st_size)


@functools.cache
def _digest(path: Path, *changed: int) -> str:
    return sha256(path)


def make_folder(folder: Path, key: str) -> None:
    """Make a folder. Raises UserError, with the config's key for another, if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; set {key}=DIR") from error


def existing(folder: Path) -> Path:
    """Return the folder or, if it is yet to be made, the nearest one above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


class CannotWrite(Exception):
    """A file could not be written; the old content is unchanged."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.reason = error.strerror or str(error)
        advice = _ADVICE.get(error.errno, "to go on,")
        super().__init__(f"cannot write {path}: {self.reason}; {advice} run the command again")


class Lock:
    """A lock file that this process holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: os.stat_result | None = None

    @property
    def intact(self) -> bool:
        """Return False if the file at the path is no longer the held one.

        Then somebody has removed or replaced it, and another process may hold the new file.
        """
        try:
            now = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return self._held is not None and os.path.samestat(self._held, now)

    def sign(self, descriptor: int) -> None:
        """Write the name of this process into the new lock file."""
        self._held = os.fstat(descriptor)
        with contextlib.suppress(OSError):  # the name is only for messages
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[str], None]) -> Iterator[Lock]:
    """Hold the lock file `path`, and make its folder.

    While another process holds it, wait, and call `busy` twice a second with that process's name.
    An error that `busy` raises ends the waiting.

    The kernel holds the lock, so it ends with the process. Raises UserError if the file system has
    no locks.
    """
    held = Lock(path)
    lock = FileLock(path, fallback_to_soft=False, preserve_lock_file=True, on_acquired=held.sign)
    waits, gone = False, 0
    try:
        while not lock.is_locked:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)  # a user may move it while we wait
                lock.acquire(timeout=_WAIT_SECONDS if waits else 0)
            except FileNotFoundError:  # as now
                gone += 1
                if gone > _MOST_GONE:  # this file system makes no such folder
                    raise
            except Timeout:
                waits = True
                busy(_holder(path))
            else:
                if not held.intact:  # a user moved it after we opened it
                    lock.release()
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ELOOP, *FULL):
            raise UserError(str(CannotWrite(path, error))) from error
        raise UserError(
            f"{path} cannot be locked ({error}): choose a folder on a file system that has locks"
        ) from error
    try:
        yield held
    finally:
        lock.release()


def _holder(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(errors="replace") or "another process"
    return "another process"


@contextlib.contextmanager
def locked_where_possible(path: Path) -> Iterator[None]:
    """Hold a lock, so that two processes do not make the same files at once.

    Hold none if the folder is not writable, because then nobody makes files, or if its file system
    has no locks.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, UserError):
            stack.enter_context(locked(path, busy=lambda holder: None))
        yield


def is_locked(path: Path) -> bool:
    """Return True if another process holds the lock file `path`."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0, fallback_to_soft=False, preserve_lock_file=True):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # the file system has no locks
        return False


def set_aside(path: Path, word: str = "damaged") -> Path:
    """Rename a file or a folder to `<path>.<word>-N`. Nothing is deleted."""
    numbered = (path.with_name(f"{path.name}.{word}-{n}") for n in itertools.count(1))
    return path.rename(next(free for free in numbered if not os.path.lexists(free)))


def write_whole(
    path: Path,
    content: str | bytes | Callable[[IO[bytes]], None],
    before_rename: Callable[[Path], None] | None = None,
) -> None:
    r"""Write `path` whole or not at all: temporary file, fsync, rename.

    The umask applies. A link at `path` is replaced, not followed. Characters that are not in
    UTF-8, for example in file names of another encoding, are written as `\udcXX`.

    before_rename: gets the temporary file, whole on disk. If it raises, the old `path` stays.
    Raises CannotWrite.
    """
    try:
        remove_abandoned(path.parent, path.name)
        with _temporary(path) as (file, temporary):
            if isinstance(content, str):
                content = content.encode(errors="backslashreplace")
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
            if before_rename:
                before_rename(temporary)
            os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise CannotWrite(path, error) from error


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Open `.NAME.RANDOM` beside `path`, and remove it at the end unless it was renamed.

    It is locked, so `remove_abandoned` of another process does not remove it.
    """
    file, temporary = _open_temporary(path)
    with file:
        try:
            yield file, temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _open_temporary(path: Path) -> tuple[IO[bytes], Path]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        file = temporary.open("xb")
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            return file, temporary
        file.close()  # another process removed it before it was locked


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove temporary files of killed processes, for one name or for all names.

    The file of a living process is locked, and stays.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            if not found or name not in (None, found[1]) or not entry.is_file():
                continue
            with contextlib.suppress(OSError), open(entry.path, "rb", opener=no_links) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)


def remove_link(path: Path) -> None:
    """Remove a symbolic link at `path`, so that nothing is written to where it leads."""
    with contextlib.suppress(OSError):
        if path.is_symlink():
            path.unlink()


def no_links(path: str, flags: int) -> int:
    """Open a file for `open(..., opener=no_links)`: a symbolic link is an error (ELOOP)."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def write_text_quickly(path: Path, content: str) -> None:
    """Replace `path` in one step without waiting for the disk; a crash may lose the text."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        with open(temporary, "w", errors="backslashreplace", opener=no_links) as file:
            file.write(content)
        temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    """Write a rename to the disk, so that it survives a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def fetching(failed: Callable[[str], str]) -> Iterator[None]:
    """Raise UserError(failed(reason)) if a download in the block fails.

    Sockets get a timeout: torchvision has none, and a network that drops packets would hang the
    run.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS_TO_ANSWER)
    try:
        yield
    except (OSError, RuntimeError, HTTPException) as error:
        raise UserError(failed(" ".join(str(error).split()))) from error
    finally:
        socket.setdefaulttimeout(before)
