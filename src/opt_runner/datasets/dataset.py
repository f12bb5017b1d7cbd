"""The interface of a dataset. Its options are the signature of `__init__`."""

from typing import Protocol, runtime_checkable

from opt_runner.datasets.images import Images


@runtime_checkable
class Dataset(Protocol):
    """A source of images. Building one is cheap: nothing is read before a method is called.

    A dataset of your own needs these three methods and nothing from this package but `Images`.
    """

    def check(self) -> None:
        """Raise UserError for faults that show without reading the data, such as a missing file."""

    def fingerprint(self) -> str:
        """Return a short name of the data: same data, same string, wherever it lies."""
        ...

    def load(self) -> Images:
        """Return the images and labels, on the CPU."""
        ...
