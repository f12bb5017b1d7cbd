"""Output that never ends a program."""

import io
import os
import sys
from contextlib import suppress
from typing import Any


def make_steady() -> None:
    """Make writes to standard output and error raise no errors: after a first one, discard all.

    Such errors are a full disk, a closed descriptor, a pipe without a reader and a lost terminal.
    Characters that the encoding does not have are escaped.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file would get this number, and prints with it
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue  # somebody replaced it
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
        file = _Steady(descriptor, "wb", closefd=False)
        direct = getattr(stream, "write_through", False)  # as with python -u
        steady = io.TextIOWrapper(
            file if direct else io.BufferedWriter(file),
            encoding=getattr(stream, "encoding", "utf-8"),
            errors="backslashreplace",
            line_buffering=getattr(stream, "line_buffering", False),
            write_through=direct,
        )
        setattr(sys, name, steady)


class _Steady(io.FileIO):
    """A descriptor that discards what it cannot write."""

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError:
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), self.fileno())
            return len(data)
        return len(data) if written is None else written
