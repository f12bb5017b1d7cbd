"""The cache: the decoded images of a folder, and the hash of its content.

`images-KEY.npy` holds all images, (N, C, H, W), for `numpy.load`. Beside it `images-KEY.json` holds
its SHA-256, and the file's size and time of change (ctime) when it last had this SHA-256. A huge
file takes minutes to read, so it is checked again only if size or ctime differ. Nobody can
set a ctime back. A disk that loses bits by itself is not noticed.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from numpy.lib import format as npy

from opt_runner.datasets.stored import Stored
from opt_runner.errors import UserError, gib
from opt_runner.files import CannotWrite, expanded, remove_abandoned, sha256, write_whole

log = logging.getLogger(__name__)

_HASH = re.compile(r"[0-9a-f]{64}")

# Writes bytes at an offset of the file, from any thread.
Put = Callable[[bytes, int], None]


def default_folder() -> Path:
    """Return $XDG_CACHE_HOME/opt-runner, or ~/.cache/opt-runner. Raises UserError for no home."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or expanded("~/.cache")
    except UserError as error:
        raise UserError(f"{error}, or set dataset.cache_dir=DIR") from error
    return Path(home) / "opt-runner"


def lock_of(folder: Path, key: str) -> Path:
    """Return the lock of the process that decodes the images, or hashes the files, of `key`."""
    return folder / f".images-{key}.lock"


def remembered(folder: Path, key: str) -> str | None:
    """Return the hash that `remember` has kept under `key`, or None."""
    try:
        known = (folder / f"content-{key}").read_text()
    except (OSError, ValueError):
        return None
    return known if _HASH.fullmatch(known) else None


def remember(folder: Path, key: str, content: str) -> None:
    """Keep a hash of 64 digits under `key`, if the folder is writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"content-{key}", content)
    except (OSError, CannotWrite) as error:
        log.debug("computed again at the next start: %s", error)


def read(folder: Path, key: str) -> Stored | None:
    """Return the images of `key`, or None if they are not there, damaged or of another key."""
    path = _path(folder, key)
    if not path.is_file():
        return None
    try:
        note = json.loads(path.with_suffix(".json").read_text())
        if note["key"] != key:
            raise ValueError("of another key")
        images = _stored(path)
        if note["checked"] != _state(path):
            if note["sha256"] != sha256(path):
                raise ValueError("of another checksum")
            try:
                _note(path, key, note["sha256"])
            except CannotWrite as error:
                log.debug("checked again at the next start: %s", error)
        return images
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.debug("%s: %s", path, error)
    return None


def write(
    folder: Path, key: str, shape: tuple[int, int, int, int], fill: Callable[[Put], None]
) -> Stored:
    """Write uint8 images of this shape into the file of `key`, and return them.

    fill: gets a function that puts bytes at an offset, counted from the first image on.
    Raises UserError if there is no room, or no file can be written.
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
        remove_abandoned(folder)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"{folder} has {gib(free)} free; {advice}, or a smaller dataset.size; what "
                "other folders or former states of this one have left there may be removed"
            )
        write_whole(path, content)
        _note(path, key, sha256(path))
        return _stored(path)
    except (CannotWrite, OSError) as error:
        raise UserError(f"{error}; {advice}") from error


def _path(folder: Path, key: str) -> Path:
    return folder / f"images-{key}.npy"


def _stored(path: Path) -> Stored:
    with path.open("rb") as file:
        if npy.read_magic(file) != (1, 0):
            raise ValueError("of another version")
        shape, _, dtype = npy.read_array_header_1_0(file)
        start = file.tell()
        if str(dtype) != "uint8" or len(shape) != 4:
            raise ValueError(f"holds {dtype} {shape}")
    return Stored(path, start, shape)


def _note(path: Path, key: str, digest: str) -> None:
    note = {"key": key, "sha256": digest, "checked": _state(path)}
    write_whole(path.with_suffix(".json"), json.dumps(note) + "\n")


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_ctime_ns]
