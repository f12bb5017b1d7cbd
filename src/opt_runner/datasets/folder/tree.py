"""The files of a folder and their classes, without opening any."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import torch
from torch import Tensor

from opt_runner.datasets.data import Samples
from opt_runner.datasets.stored import Stored
from opt_runner.errors import UserError, listed
from opt_runner.files import readable

# Thumbnails, bins and the like of NAS systems, macOS, Windows and ext4.
JUNK = ("@eaDir", "#recycle", "@Recycle", "__MACOSX", "$RECYCLE.BIN", "lost+found")
TEST_FOLDERS = ("test", "val", "valid")
LAYOUT = "train/<class>/FILES and test/<class>/FILES (or val/ or valid/)"


class ClassFile(NamedTuple):
    """A file, by its name below the training or test folder.

    name: in Unicode's form NFC, so that a copy from macOS, which may have NFD, is the same data.
    changed_ns: the time of the last change that nobody can set back (ctime). tar and rsync
        restore the time of modification.
    """

    name: str
    path: str
    bytes: int
    changed_ns: int


@dataclass(frozen=True)
class FolderTree:
    """The files of each half by class; the classes are sorted, and so are the files of each.

    skipped: paths of other files.
    """

    train: dict[str, list[ClassFile]]
    test: dict[str, list[ClassFile]]
    skipped: list[str]

    @property
    def classes(self) -> list[str]:
        return list(self.train)

    @property
    def files(self) -> list[ClassFile]:
        """Return all files, those to train on first."""
        halves = (self.train, self.test)
        return [file for half in halves for files in half.values() for file in files]

    @property
    def train_count(self) -> int:
        return sum(map(len, self.train.values()))

    def halves(self, inputs: Tensor | Stored) -> tuple[Samples, Samples]:
        """Return what was read from `files`, in their order, with labels: training and test."""
        counts = [len(files) for half in (self.train, self.test) for files in half.values()]
        classes = torch.arange(len(self.train)).repeat(2)
        both = Samples(inputs, classes.repeat_interleave(torch.tensor(counts)))
        return both[: self.train_count], both[self.train_count :]


def scan(root: Path, suffixes: tuple[str, ...]) -> FolderTree:
    """Return the regular files with these suffixes, as `LAYOUT` says, at any depth below a class.

    Hidden files and JUNK are skipped without a message. Raises UserError if a folder is missing or
    empty, if the halves' classes differ, or if there are fewer than two.
    """
    if not root.is_dir():
        fault = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"{root} {fault}: a folder with {LAYOUT} is expected")
    skipped: list[str] = []
    train = _classes(_half(root, "train"), suffixes, skipped)
    test = _classes(_half(root, *TEST_FOLDERS), suffixes, skipped)
    only_train, only_test = sorted(train.keys() - test.keys()), sorted(test.keys() - train.keys())
    if only_train or only_test:
        raise UserError(
            f"{root} has other classes to train on than to test on: "
            f"only to train on {listed(only_train, 5)}; only to test on {listed(only_test, 5)}"
        )
    if len(train) == 1:
        folder = root / "train" / next(iter(train))
        raise UserError(
            f"{folder.parent} has one class alone, {folder.name}: {LAYOUT} is expected, with two "
            f"classes at least; {folder} has {_contents(folder)}"
        )
    return FolderTree(train, test, skipped)


def _half(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise UserError(
        f"{root} has no folder {' or '.join(names)}: {LAYOUT} is expected, "
        f"there is {_contents(root)}"
    )


def _classes(
    folder: Path, suffixes: tuple[str, ...], skipped: list[str]
) -> dict[str, list[ClassFile]]:
    """Return the files of each class folder; add other files to `skipped`."""
    classes: dict[str, list[ClassFile]] = {}
    for entry in _visible(folder):
        if not entry.is_dir():
            skipped.append(entry.path)
            continue
        name = normalize("NFC", entry.name)
        if name in classes:
            raise UserError(
                f"{folder} has two folders {name}, whose names differ only in Unicode's form "
                "(NFC and NFD): move the files into one of them"
            )
        classes[name] = sorted(_files(entry.path, suffixes, f"{name}/", (), skipped))
        if not classes[name]:
            raise UserError(
                f"{entry.path} has no file that ends in {' '.join(suffixes)}, "
                f"there is {_contents(entry.path)}"
            )
    if not classes:
        raise UserError(
            f"{folder} has no class folders: {LAYOUT} is expected, there is {_contents(folder)}"
        )
    return dict(sorted(classes.items()))


def _files(
    folder: str,
    suffixes: tuple[str, ...],
    prefix: str,
    above: tuple[tuple[int, int], ...],
    skipped: list[str],
) -> Iterator[ClassFile]:
    """Yield the files at any depth; links are followed, but not back into a folder above."""
    here = _status(folder)
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    for entry in _visible(folder):
        name = prefix + normalize("NFC", entry.name)
        if entry.is_dir():
            yield from _files(entry.path, suffixes, f"{name}/", (*above, identity), skipped)
            continue
        if name.lower().endswith(suffixes):
            status = _status(entry.path)
            if stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
                yield ClassFile(name, entry.path, status.st_size, status.st_ctime_ns)
                continue
        skipped.append(entry.path)


def _status(path: str) -> os.stat_result:
    with readable(path):  # a link to nowhere cannot
        return os.stat(path)


def _visible(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [e for e in entries if not e.name.startswith(".") and e.name not in JUNK]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}") from error
    return sorted(visible, key=lambda entry: entry.name)


def _contents(folder: Path | str) -> str:
    return listed([entry.name for entry in _visible(folder)], 5)
