"""Decoded images on disk: a file of them all, whole or not at all, and believed only if it checks.

`images-KEY.npy` is what `numpy.load` reads, (N, C, H, W). Beside it `images-KEY.json` has its
SHA-256, and the size and the time of the last change at which the file was found to have it. To
read all of a huge file at each start would take minutes: it is done only where one of the two has
changed since. Nobody can set that time (ctime) back; what it does not tell is a disk that forgets.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from numpy.lib import format as npy

from opt_runner.datasets.stored import Stored
from opt_runner.errors import UserError, gib
from opt_runner.files import CannotWrite, write_whole

log = logging.getLogger(__name__)

# What earlier releases left, which is no longer read.
_FORMER = re.compile(r"images-[0-9a-f]{32}\.pt")
_UNFINISHED = re.compile(r"\.images-[0-9a-f]{32}\.npy\..+")
# An unfinished file that has not grown for so long belongs to no process any more.
_ABANDONED_SECONDS = 3600

# Writes the bytes at the offset of the file, from any thread.
Put = Callable[[bytes, int], None]


def default_folder() -> Path:
    """$XDG_CACHE_HOME/opt-runner, or ~/.cache/opt-runner."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "opt-runner"


def lock_of(folder: Path, key: str) -> Path:
    """Held by who decodes."""
    return folder / f".images-{key}.lock"


def read(folder: Path, key: str) -> Stored | None:
    """Return the images of `key`, or None if they are not there, damaged or of another key."""
    path = _path(folder, key)
    if not path.is_file():
        return None
    try:
        return _checked(path, key)
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.debug("%s: %s", path, error)
    return None


def write(
    folder: Path, key: str, shape: tuple[int, int, int, int], fill: Callable[[Put], None]
) -> Stored:
    """Return the file of `key` with uint8 images of this shape.

    fill: gets what puts bytes at their place; offsets are counted from the first image on.
    Raises UserError where there is no room, or no file can be written.
    """
    path = _path(folder, key)
    if path.exists():
        log.warning("%s is damaged: decoding the images again", path)

    def content(file: IO[bytes]) -> None:
        npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.flush()
        start = file.tell()

        def put(values: bytes, offset: int) -> None:
            if os.pwrite(file.fileno(), values, start + offset) != len(values):
                raise OSError("the disk is full")

        fill(put)

    count, channels, height, width = shape
    needed = count * channels * height * width
    advice = f"the {gib(needed)} of decoded images need a place: set dataset.cache_dir=DIR"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clean(folder)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"{folder} has {gib(free)} free; {advice}, or a smaller dataset.size; what "
                "other folders or former states of this one have left there may be removed"
            )
        write_whole(path, content)
        _note(path, key, _sha256(path))
        return _stored(path)
    except (CannotWrite, OSError) as error:
        raise UserError(f"{error}; {advice}") from error


def _clean(folder: Path) -> None:
    """Remove what earlier releases left, and what killed processes had written."""
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process cleans, too
            old = time.time() - file.stat().st_mtime > _ABANDONED_SECONDS
            if _FORMER.fullmatch(file.name) or (old and _UNFINISHED.fullmatch(file.name)):
                file.unlink()


def _path(folder: Path, key: str) -> Path:
    return folder / f"images-{key}.npy"


def _checked(path: Path, key: str) -> Stored:
    """Read the file. Raises ValueError and others where it is not as it was written."""
    note = json.loads(path.with_suffix(".json").read_text())
    if note["key"] != key:
        raise ValueError("of another key")
    images = _stored(path)
    if note["checked"] != _state(path):
        if note["sha256"] != _sha256(path):
            raise ValueError("of another checksum")
        try:
            _note(path, key, note["sha256"])
        except CannotWrite as error:
            log.debug("checked again at the next start: %s", error)
    return images


def _stored(path: Path) -> Stored:
    with path.open("rb") as file:
        if npy.read_magic(file) != (1, 0):
            raise ValueError("of another version")
        shape, _, dtype = npy.read_array_header_1_0(file)
        start = file.tell()
        if str(dtype) != "uint8" or len(shape) != 4:
            raise ValueError(f"holds {dtype} {shape}")
    return Stored(path, start, shape)


def _note(path: Path, key: str, sha256: str) -> None:
    note = {"key": key, "sha256": sha256, "checked": _state(path)}
    write_whole(path.with_suffix(".json"), json.dumps(note) + "\n")


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_ctime_ns]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
