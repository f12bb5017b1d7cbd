"""A user's own images: one folder for each class, decoded once and cached."""

import hashlib
import json
import logging
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from opt_runner.datasets.folder import cache
from opt_runner.datasets.folder.decode import BLACK, WHITES, decode_all, digest_all, survey
from opt_runner.datasets.folder.tree import FolderTree, scan
from opt_runner.datasets.images import Images
from opt_runner.datasets.stored import Stored
from opt_runner.errors import UserError, listed
from opt_runner.files import expanded, locked_where_possible

log = logging.getLogger(__name__)

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".ppm", ".pgm",
    ".tif", ".tiff",
)  # fmt: skip

# Increase it when decoding gives other values: older files in the cache are then not used.
CACHE_FORMAT = 3


class ImageFolder:
    """Images in `root/train/<class>/` and `root/test/<class>/`, at any depth below a class.

    Without `test/`, `val/` or `valid/` is used. The classes are sorted by name.

    root: the folder.
    size: side of the square images. channels: 1 (grey) or 3 (colour). white: the level of white in
    grey files of more than 8 bits. None: 65535, if a file has values above 16383; else it must be
    given, as a folder tested later may be darker by chance.
    cache_dir: the folder of the decoded images; None is `opt-runner` in the user's cache folder.

    The first call of a method looks through the folder, once. See `decode` for images of another
    size, shape or mode.
    """

    def __init__(
        self,
        root: str,
        size: Annotated[int, Field(gt=0, le=100_000)] | None = None,
        channels: Literal[1, 3] | None = None,
        white: Literal[255, 1023, 4095, 16383, 65535] | None = None,  # of WHITES
        cache_dir: str | None = None,
    ) -> None:
        self.root = Path(expanded(root))
        self.size = size
        self.channels = channels
        self.white = white
        self.cache_dir = Path(expanded(cache_dir)) if cache_dir else cache.default_folder()

    def check(self) -> None:
        _ = self._tree

    def fingerprint(self) -> str:
        """Return a hash of the options and of the names and contents of all files.

        A copy elsewhere has the same fingerprint. The first call reads all files. The cache keeps
        the hash until a size or a time of change (ctime) differs.
        """
        options = [self.size, self.channels, self._tree.train_count]
        options += [] if self.white is None else [self.white]
        return _hash([options, self._content])[:16]

    def load(self) -> Images:
        """Return the images, uint8 (N, channels, size, size), from the cache; fill it if needed.

        Raises UserError as `check` does, and if images cannot be read or the cache not written.
        """
        key = _hash([CACHE_FORMAT, self.fingerprint()])[:32]
        stored = cache.read(self.cache_dir, key)
        if stored is None:  # of several processes one decodes, and the others wait
            with locked_where_possible(cache.lock_of(self.cache_dir, key)):
                stored = cache.read(self.cache_dir, key) or self._decode(key)
        return Images(*self._tree.halves(stored), classes=self._tree.classes)

    @cached_property
    def _tree(self) -> FolderTree:
        return scan(self.root, SUFFIXES)

    @cached_property
    def _content(self) -> str:
        """Return a hash of all names and contents. Of several processes one computes it."""
        states = [(file.name, file.bytes, file.changed_ns) for file in self._tree.files]
        key = _hash(states)[:32]
        if known := cache.remembered(self.cache_dir, key):
            return known
        with locked_where_possible(cache.lock_of(self.cache_dir, key)):
            known = cache.remembered(self.cache_dir, key)
            if known is None:
                if skipped := self._tree.skipped:
                    log.warning(
                        "%s: left out %s files that do not end in %s, or are no regular files: %s",
                        self.root, f"{len(skipped):,}", " ".join(SUFFIXES), listed(skipped, 5),
                    )  # fmt: skip
                known = _hash(digest_all(self._tree.files))
                cache.remember(self.cache_dir, key, known)
            return known

    def _decode(self, key: str) -> Stored:
        paths = [file.path for file in self._tree.files]
        found = survey(paths)
        size, channels = self.size or found.size, self.channels or found.channels
        white = self.white or found.white
        if found.white > white:
            raise UserError(f"dataset.white={white}: {self.root} has values up to {found.white:,}")
        if self.white is None and white < WHITES[-1]:
            raise UserError(
                f"{self.root}: {found.wide:,} grey images of more than 8 bits have no value above "
                f"{white:,}: set dataset.white={white} if this value is white, else the one of "
                f"{listed([str(value) for value in WHITES])} that is"
            )

        def fill(put: cache.Put) -> None:
            black = decode_all(paths, size, channels, white, put)
            if scan(self.root, SUFFIXES) != self._tree:
                raise UserError(f"{self.root} was changed while it was read: run the command again")
            if black:
                log.warning(
                    "%s: %s images are black (no value is above %s of 255): %s",
                    self.root, f"{len(black):,}", BLACK, listed(black, 5),
                )  # fmt: skip

        return cache.write(self.cache_dir, key, (len(paths), channels, size, size), fill)


def _hash(content: object) -> str:
    # Names that are no UTF-8 hold surrogates, which json escapes.
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
