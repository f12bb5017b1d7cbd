"""The files of an image folder: which there are, of which class, without opening any."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from opt_runner.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
TEST_FOLDERS = ("test", "val", "valid")
LAYOUT = "train/<class>/*.png and test/<class>/*.png (or val/ or valid/)"


class ImageFile(NamedTuple):
    """A file, by its name below the training or test folder.

    changed_ns is the time of the last change that nobody can set back (ctime): tar and rsync
    restore the time of modification.
    """

    name: str
    path: str
    bytes: int
    changed_ns: int


@dataclass(frozen=True)
class FolderTree:
    """The files of each half by class; the classes are sorted, and so are the files of each."""

    train: dict[str, list[ImageFile]]
    test: dict[str, list[ImageFile]]

    @property
    def classes(self) -> list[str]:
        return list(self.train)


def scan(root: Path) -> FolderTree:
    """Return the images below `root`, as `LAYOUT` says, at any depth below a class.

    Hidden files and folders are passed over, and so are files without one of SUFFIXES.
    Raises UserError where a folder is missing or empty, or the halves' classes differ.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"{root} {what}: an image folder with {LAYOUT} is expected")
    tree = FolderTree(train=_half(root, "train"), test=_half(root, *TEST_FOLDERS))
    only_train = sorted(tree.train.keys() - tree.test.keys())
    only_test = sorted(tree.test.keys() - tree.train.keys())
    if only_train or only_test:
        raise UserError(
            f"{root} has other classes to train on than to test on: "
            f"only to train on {_listed(only_train)}; only to test on {_listed(only_test)}"
        )
    return tree


def _half(root: Path, *names: str) -> dict[str, list[ImageFile]]:
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        raise UserError(
            f"{root} has no folder {' or '.join(names)}: {LAYOUT} is expected, "
            f"there is {_contents(root)}"
        )
    names_of_classes = [entry.name for entry in _visible(folder) if entry.is_dir()]
    if not names_of_classes:
        raise UserError(
            f"{folder} has no class folders: {LAYOUT} is expected, there is {_contents(folder)}"
        )
    classes = {name: sorted(_images(folder / name, f"{name}/", ())) for name in names_of_classes}
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise UserError(
            f"{folder / empty[0]} has no image ({' '.join(SUFFIXES)}), "
            f"there is {_contents(folder / empty[0])}"
        )
    return classes


def _images(
    folder: Path | str, prefix: str, above: tuple[tuple[int, int], ...]
) -> Iterator[ImageFile]:
    """Yield the images at any depth below `folder`.

    Links are followed, but not back into a folder above.
    """
    status = _status(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in _visible(folder):
        name = prefix + entry.name
        if entry.is_dir():
            yield from _images(entry.path, f"{name}/", (*above, here))
        elif entry.name.lower().endswith(SUFFIXES):
            status = _status(entry.path)
            yield ImageFile(name, entry.path, status.st_size, status.st_ctime_ns)


def _status(path: Path | str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:  # a link to nowhere, say
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _visible(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}") from error
    return sorted(visible, key=lambda entry: entry.name)


def _contents(folder: Path) -> str:
    return _listed([entry.name for entry in _visible(folder)])


def _listed(names: list[str]) -> str:
    if len(names) > 5:
        return f"{', '.join(names[:5])} and {len(names) - 5} more"
    return ", ".join(names) or "nothing"
