"""The interface of a dataset. Its options are the signature of `__init__`."""

from typing import Protocol, runtime_checkable

from opt_runner.datasets.data import Data, Measure
from opt_runner.datasets.images import Images
from opt_runner.errors import UserError


@runtime_checkable
class Dataset(Protocol):
    """A source of data. Building one is cheap: nothing is read before a method is called.

    A dataset of your own needs these three methods and a class of data: `Images`, or a `Data` of
    its own. An attribute `content` names that class; without it the data are `Images`.
    """

    def check(self) -> None:
        """Raise UserError for faults that show without reading the data, such as a missing file."""

    def fingerprint(self) -> str:
        """Return a short name of the data: same data, same string, wherever it lies."""
        ...

    def load(self) -> Data:
        """Return the samples, on the CPU."""
        ...


def measure_of(dataset: Dataset) -> Measure:
    """Return what is measured on the dataset, without reading it."""
    return _content(dataset).measure


def loaded(dataset: Dataset) -> Data:
    """Return the dataset's data. Raises UserError if they are not what it promises."""
    data, kind = dataset.load(), _content(dataset)
    if not isinstance(data, kind):
        raise UserError(
            f"dataset: {type(dataset).__name__}.load gives {type(data).__name__} and not "
            f"{kind.__name__}: name its class in the attribute `content`"
        )
    return data


def _content(dataset: Dataset) -> type[Data]:
    kind: type[Data] = getattr(dataset, "content", Images)
    return kind
