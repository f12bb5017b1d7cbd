"""Read files that may have been cut, edited or replaced since a run wrote them."""

import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from opt_runner.errors import UserError
from opt_runner.files import readable

T = TypeVar("T")

_MOST_BYTES = 2**28
_MOST_VALUES = 100_000  # in a config: a kilobyte of YAML aliases can mean billions of values
_LARGEST = 1e100  # the largest number: sums and squares of such numbers are still finite
_MOST_DIGITS = 18  # digits of a whole number: it fits into 64 bits

# PyYAML may be built with libyaml, whose loader is ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class DamagedFile(UserError):
    """A file was altered after it was written. The message names the file and the fault."""


def read_text(path: Path) -> str:
    """Return the text of a regular file. A pipe or a device is not read: it may never end.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it cannot be read.
        DamagedFile: it is not UTF-8.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MOST_BYTES:
            raise UserError(f"{path} is too large: {size:,} bytes")
        try:
            with readable(path):
                return file.read().decode()
        except UnicodeDecodeError as error:
            raise DamagedFile(f"{path} is damaged: it is not UTF-8") from error


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes. Raises FileNotFoundError and UserError."""
    try:
        # O_NONBLOCK: to open a pipe would wait for its writer.
        file = open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK))  # noqa: SIM115
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:  # a folder above it is none
        raise FileNotFoundError(str(path)) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{path} is no regular file")
    return file


def read_json(path: Path, kind: TypeAdapter[T]) -> T:
    """Return the content of a JSON file, checked against a type.

    Raises as `read_text`, and DamagedFile for broken JSON, a wrong type or an absurd number.
    """
    try:
        return kind.validate_python(parse_json(read_text(path)))
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise DamagedFile(f"{path} is damaged: {key}: {fault['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged: {error}") from error


def parse_json(text: str) -> Any:
    """Return the values of JSON. Raises ValueError and RecursionError, also for absurd numbers."""
    return json.loads(text, parse_int=_whole, parse_float=_number, parse_constant=_number)


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"the number {digits[:9]}... has {len(digits)} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not abs(value) < _LARGEST:
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping of a YAML file, plain values with text as keys.

    Raises as `read_text`, and DamagedFile for broken YAML and for other content.
    """
    try:
        content = yaml.load(read_text(path), _Loader)
        _check_plain(content, iter(range(_MOST_VALUES)))
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise DamagedFile(f"{path} is damaged: {error.problem}{line}") from error
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise DamagedFile(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} is damaged: it holds no keys")
    return content


def _check_plain(value: Any, left: Iterator[int]) -> None:
    """Raise ValueError for types that JSON does not have, and for too many values."""
    if next(left, None) is None:
        raise ValueError(f"it stands for more than {_MOST_VALUES:,} values")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"its key {key!r} is no text")
            _check_plain(inner, left)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, left)
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"it holds a {type(value).__name__}")


def folders_below(
    folders: Iterable[Path], fault: Callable[[str], None]
) -> Iterator[tuple[Path, set[str]]]:
    """Yield every folder below these with the names of its files, each folder once, also by links.

    Hidden folders and records that were set aside (`.old-`) are left out.
    fault: called with a line about each folder, or file in it, that cannot be read.
    """

    def unreadable(error: OSError) -> None:
        fault(f"{error.filename} cannot be read: {error.strerror}")

    seen: set[str] = set()
    for folder in folders:
        for root, names, files in os.walk(folder, onerror=unreadable, followlinks=True):
            real = os.path.realpath(root)
            if real in seen:
                names.clear()  # a link may lead in a circle
                continue
            seen.add(real)
            names[:] = sorted(name for name in names if _is_shown(os.path.join(root, name)))
            if ".old-" not in os.path.basename(root):
                yield Path(root), set(files)


def _is_shown(folder: str) -> bool:
    paths = [folder, os.path.realpath(folder)] if os.path.islink(folder) else [folder]
    names = map(os.path.basename, paths)
    return not any(name.startswith(".") or ".old-" in name for name in names)


def printable(text: str) -> str:
    """Return `text` with U+FFFD for characters that are unsafe to print or not in UTF-8.

    These are control characters, marks of writing direction and halves of surrogate pairs. Line
    breaks and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" else " " if c.isspace() else "\ufffd" for c in text
    )
