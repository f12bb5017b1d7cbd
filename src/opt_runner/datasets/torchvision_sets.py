"""MNIST, FashionMNIST, CIFAR-10 and CIFAR-100, fetched and read by torchvision."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from opt_runner.datasets.data import Samples
from opt_runner.datasets.dataset import Dataset
from opt_runner.datasets.folder.image_folder import ImageFolder
from opt_runner.datasets.images import Images
from opt_runner.errors import UserError, in_words
from opt_runner.files import expanded, fetching, locked_where_possible

# The files of the MNIST family and their published sizes, the same for MNIST and FashionMNIST.
IDX_BYTES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}
CLASSES = {"MNIST": 10, "FashionMNIST": 10, "CIFAR10": 10, "CIFAR100": 100}
Source = Literal["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"]


def published_set(
    source: Source, root: str = "data", download: bool = True, cache_dir: str | None = None
) -> Dataset:
    """Return one of torchvision's sets: its published files, or the same images in class folders.

    Copies of CIFAR often come as `root`/train/CLASS/*: such folders are read where there are no
    published files. Sorted names are the official order of CIFAR's classes.
    See `TorchvisionSet` and, for cache_dir, `ImageFolder`. Raises UserError for another number of
    classes.
    """
    published = TorchvisionSet(source, root, download)
    train = published.root / "train"
    if not published._missing() or not train.is_dir():
        return published
    found = sum(path.is_dir() and not path.name.startswith(".") for path in train.iterdir())
    if found != CLASSES[source]:
        raise UserError(
            f"dataset.root={root}: {train} has {found} class folders, and {source} has "
            f"{CLASSES[source]}: dataset=image_folder reads any folders"
        )
    return ImageFolder(root, cache_dir=cache_dir)


class TorchvisionSet:
    """One of torchvision's sets, in its published files below `root`.

    source: the name of the set; CIFAR100 has its 100 fine labels.
    root: the folder that holds torchvision's folder of this set.
    download: fetch files that are missing or damaged.
    """

    def __init__(self, source: Source, root: str = "data", download: bool = True) -> None:
        self.source = source
        self.root = Path(expanded(root))
        self.download = download

    def check(self) -> None:
        missing = self._missing()
        if missing and not self.download:
            raise UserError(f"{missing}: put {self._expected} there, or set download=true")

    def fingerprint(self) -> str:
        """Return the set's name: published files do not change, and CIFAR's have checksums.

        The MNIST family has no checksums. If the sizes are not the published ones, they are added.
        """
        if not self._is_idx:
            return self.source
        published = list(IDX_BYTES.values())
        sizes = [
            file.stat().st_size if file.is_file() else size
            for file, size in zip(self._files, published, strict=True)
        ]
        return self.source if sizes == published else "-".join([self.source, *map(str, sizes)])

    def load(self) -> Images:
        """Return the images, uint8: (N, 1, 28, 28) of the MNIST family, (N, 3, 32, 32) of CIFAR.

        Raises UserError if files are missing or damaged and cannot be fetched.
        """
        self.check()
        lock = self.root / f".{self.source}.lock"
        with locked_where_possible(lock) if self.download else nullcontext():
            problem = self._missing() or self._damaged()
            if problem and self.download:
                self._fetch(problem)
                problem = self._missing() or self._damaged()
        if problem:
            raise UserError(f"{problem}: delete it, with download=true it is fetched anew")
        try:
            train, classes = self._read(train=True)
            test, _ = self._read(train=False)
            return Images(train, test, classes)
        except Exception as error:
            raise UserError(
                f"{self._folder} does not hold {self.source}: {in_words(error)}: delete it, with "
                "download=true it is fetched anew"
            ) from error

    @property
    def _is_idx(self) -> bool:
        return self.source in ("MNIST", "FashionMNIST")

    @property
    def _torchvision_class(self) -> Any:
        from torchvision import datasets  # slow to import, and not needed for other datasets

        return getattr(datasets, self.source)

    @property
    def _folder(self) -> Path:
        if self._is_idx:
            return self.root / self.source / "raw"
        return self.root / str(self._torchvision_class.base_folder)

    @property
    def _files(self) -> dict[Path, str | None]:
        """Return the files that must be there, and their MD5 if it is published."""
        if self._is_idx:
            return {self._folder / name: None for name in IDX_BYTES}
        cifar = self._torchvision_class
        meta = (cifar.meta["filename"], cifar.meta["md5"])
        return {
            self._folder / name: md5 for name, md5 in [*cifar.train_list, *cifar.test_list, meta]
        }

    @property
    def _expected(self) -> str:
        return ", ".join(file.name for file in self._files)

    def _missing(self) -> str | None:
        for file in self._files:
            if not file.is_file():
                return f"{self.source}: {file} is missing"
        return None

    def _damaged(self) -> str | None:
        from torchvision.datasets.utils import check_integrity

        for file, md5 in self._files.items():
            if not check_integrity(file, md5):
                return f"{self.source}: {file} is damaged (not the MD5 of the published file)"
        return None

    def _fetch(self, problem: str) -> None:
        def failed(reason: str) -> str:
            return (
                f"{problem} and could not be fetched ({reason}): put {self._expected} into "
                f"{self._folder} yourself and set download=false"
            )

        with fetching(failed):
            self._torchvision_class(self.root, download=True)

    def _read(self, train: bool) -> tuple[Samples, list[str]]:
        """Return images (N, C, H, W) with their labels, and the classes, of one half."""
        # `load` has checked the checksums, so that no unknown pickle is opened.
        half = self._torchvision_class(self.root, train=train)
        images = torch.as_tensor(half.data)
        images = images.unsqueeze(1) if self._is_idx else images.permute(0, 3, 1, 2).contiguous()
        labels = torch.as_tensor(half.targets, dtype=torch.int64)
        return Samples(images, labels), list(half.classes)
