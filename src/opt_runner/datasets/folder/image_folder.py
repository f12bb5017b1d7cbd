"""A person's own images: one folder a class, decoded once and cached."""

import hashlib
import json
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.datasets.folder import cache
from opt_runner.datasets.folder.decode import decode_all, survey
from opt_runner.datasets.folder.tree import FolderTree, ImageFile, scan
from opt_runner.datasets.images import Images
from opt_runner.datasets.stored import Stored
from opt_runner.errors import UserError
from opt_runner.files import locked_where_possible

# Raised when decoding gives other values: what older versions cached is then left alone.
CACHE_FORMAT = 2
# How much of the content a fingerprint looks at.
SAMPLED_FILES = 64
SAMPLED_BYTES = 65_536


class ImageFolder:
    """Images in `root/train/<class>/` and `root/test/<class>/`, at any depth below a class.

    `val/` or `valid/` serves where there is no `test/`. The classes are sorted by name.

    root: the folder.
    size: side of the square images; None takes the commonest short side, which is the images' own
        where all are squares of one size.
    channels: 1 (grey) or 3 (colour); None is 1 where every file is grey, else 3.
    cache_dir: where the decoded images are kept; None is `opt-runner` in the user's cache folder.

    The folder is looked through once, at the first call of a method; see `decode` for what happens
    to images of another size, shape or mode.
    """

    def __init__(
        self,
        root: str,
        size: Annotated[int, Field(gt=0, le=100_000)] | None = None,
        channels: Literal[1, 3] | None = None,
        cache_dir: str | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.size = size
        self.channels = channels
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else cache.default_folder()

    def check(self) -> None:
        """Raise UserError where folders are missing or empty, or their classes differ."""
        _ = self._tree

    def fingerprint(self) -> str:
        """Return a hash of options, of names and sizes of files, and of a sample of the content.

        The sample tells uncompressed images apart, which are of one size whatever they show.
        """
        files = self._files
        names = [(file.name, file.bytes) for file in files]
        digest = hashlib.sha256(_encoded([self.size, self.channels, len(self._train), names]))
        for file in files[:: max(1, len(files) // SAMPLED_FILES)]:
            digest.update(_beginning(file))
        return digest.hexdigest()[:16]

    def load(self) -> Images:
        """Return the images, uint8 (N, channels, size, size), from the cache; decode them first.

        Raises UserError as `check` does, naming the file where an image cannot be read, and where
        the decoded images cannot be written.
        """
        stored = cache.read(self.cache_dir, self._cache_key) or self._decoded()
        split = len(self._train)
        return Images(
            train_images=stored[:split],
            train_labels=_labels(self._tree.train),
            test_images=stored[split:],
            test_labels=_labels(self._tree.test),
            classes=self._tree.classes,
        )

    @cached_property
    def _tree(self) -> FolderTree:
        return scan(self.root)

    @property
    def _train(self) -> list[ImageFile]:
        return list(chain.from_iterable(self._tree.train.values()))

    @property
    def _test(self) -> list[ImageFile]:
        return list(chain.from_iterable(self._tree.test.values()))

    @property
    def _files(self) -> list[ImageFile]:
        return self._train + self._test

    @property
    def _cache_key(self) -> str:
        files = [(file.name, file.bytes, file.changed_ns) for file in self._files]
        options = [CACHE_FORMAT, self.size, self.channels, len(self._train)]
        return hashlib.sha256(_encoded([options, files])).hexdigest()[:32]

    def _decoded(self) -> Stored:
        """Of processes side by side one decodes, and the others wait for it."""
        key = self._cache_key
        with locked_where_possible(cache.lock_of(self.cache_dir, key)):
            return cache.read(self.cache_dir, key) or self._decode(key)

    def _decode(self, key: str) -> Stored:
        paths = [file.path for file in self._files]
        size, channels = self.size, self.channels
        if size is None or channels is None:
            common_size, common_channels = survey(paths)
            size, channels = size or common_size, channels or common_channels
        fill = partial(decode_all, paths, size, channels)
        return cache.write(self.cache_dir, key, (len(paths), channels, size, size), fill)


def _labels(classes: dict[str, list[ImageFile]]) -> Tensor:
    counts = torch.tensor([len(files) for files in classes.values()])
    return torch.arange(len(counts)).repeat_interleave(counts)


def _encoded(content: object) -> bytes:
    return json.dumps(content).encode()


def _beginning(file: ImageFile) -> bytes:
    try:
        with open(file.path, "rb") as content:
            return content.read(SAMPLED_BYTES)
    except OSError as error:
        raise UserError(f"{file.path} cannot be read: {error.strerror}") from error
