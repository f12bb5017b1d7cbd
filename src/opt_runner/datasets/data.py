"""What a dataset holds and how it is learned: samples, loss, and what is measured."""

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Protocol, Self

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.datasets.form import Form
from opt_runner.datasets.stored import Stored, read
from opt_runner.errors import UserError

# Of a batch of an evaluation: samples, and values of inputs or outputs.
_MOST_AT_ONCE, _MOST_VALUES = 1000, 2**18

Count = Annotated[int, Field(strict=True, gt=0, le=2**31)]


@dataclass(frozen=True)
class Measure:
    """What `error` means for a task: the number by which networks are compared; lower is better.

    name: as `error` or `bits per character`. unit: as `%`; may be empty.
    """

    name: str = "error"
    unit: str = "%"

    def heading(self, part: str) -> str:
        """Return the heading of a column, such as `test error %`."""
        return f"{part} {self.name} {self.unit}".strip()

    def axis(self, part: str) -> str:
        """Return the title of an axis, such as `test error, %`."""
        return f"{part} {self.name}" + (f", {self.unit}" if self.unit else "")

    @property
    def form(self) -> str:
        return ".2f" if self.unit else ".4f"

    @property
    def worst(self) -> float:
        """Return the value of a run that diverged, for a search."""
        return 100.0 if self.unit == "%" else 1e9

    def value(self, error: float) -> str:
        """Return a value with its unit, as `1.97%`."""
        return f"{error:{self.form}}{self.unit}"

    def said(self, part: str, error: float) -> str:
        """Return a value in words, such as `test error 1.97%`."""
        return f"{part} {self.name} {self.value(error)}"


class Tally(Protocol):
    """Sums over batches, from which numbers of a whole set of samples are computed.

    sums: tensors that are added up over the processes of a run.
    """

    sums: list[Tensor]

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Count the network's outputs (B, ...) against targets (B, ...)."""

    def numbers(self) -> dict[str, float]:
        """Return the numbers by name: `error`, as the data's measure says, and any others."""
        ...


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs (N, ...), in memory or `Stored`, and their targets (N, ...)."""

    inputs: Tensor | Stored
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, chosen: slice | Tensor) -> Self:
        """Return the chosen samples, in that order."""
        return replace(self, inputs=self.inputs[chosen], targets=self.targets[chosen])

    def to(self, device: torch.device | str, streamed: bool = False) -> Self:
        """Return the same on `device`; streamed: inputs stay where they are."""
        inputs = self.inputs if streamed else self.inputs.to(device)
        return replace(self, inputs=inputs, targets=self.targets.to(device))


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a network, kept beside its weights.

    samples: what an input is, as `images`; shape: of one. below: an input is an integer from 0 to
    below - 1; None: it is real. scale: how the network takes the data, in words. outputs: their
    name, as `logits`. gives: what the network was built for, by the names of its parameters; of
    tensors the type and the shape. classes: their names in the order of the outputs; may be empty.
    tensors: a hash of those in `gives`; empty if there are none.
    """

    samples: str
    shape: tuple[Count, ...]
    outputs: str
    gives: dict[str, Any]
    below: Count | None = None
    scale: str = ""
    classes: list[str] = field(default_factory=list)
    tensors: str = ""


@dataclass(frozen=True, eq=False)
class Data:
    """Training and test samples, and all that a run needs to know of them.

    A subclass brings a task of its own: it overrides `gives`, `output_shape`, `loss` and `tally`.

    train, test: the samples.
    measure: what `error` means. output_classes: outputs are logits of classes, so that the options
    of `loss` apply. samples, outputs: names of the network's inputs and outputs.
    """

    train: Samples
    test: Samples

    measure: ClassVar[Measure] = Measure()
    output_classes: ClassVar[bool] = False
    samples: ClassVar[str] = "samples"
    outputs: ClassVar[str] = "outputs"

    def __post_init__(self) -> None:
        """Raise UserError if the samples do not fit together."""
        for half, samples in (("training", self.train), ("test", self.test)):
            if len(samples.inputs) != len(samples.targets):
                raise UserError(
                    f"{len(samples.inputs)} {half} {self.samples} have {len(samples)} targets: one "
                    "each is needed"
                )
            if 0 in samples.inputs.shape:
                raise UserError(
                    f"the {half} set is empty, got {self.samples} {tuple(samples.inputs.shape)}"
                )
        train, test = self.train.inputs, self.test.inputs
        if (train.dtype, train.shape[1:]) != (test.dtype, test.shape[1:]):
            raise UserError(
                f"training {self.samples} are {train.dtype} {tuple(train.shape[1:])} and test "
                f"{self.samples} {test.dtype} {tuple(test.shape[1:])}: they must agree"
            )

    @property
    def gives(self) -> dict[str, Any]:
        """Return what a network may take, by the names of its parameters.

        Values are plain or tensors; a network keeps tensors as buffers.
        """
        return {}

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Return the shape of the network's output for one sample."""
        raise NotImplementedError

    @property
    def scale(self) -> str:
        """Return how the network takes the data, in words."""
        return ""

    @property
    def below(self) -> int | None:
        """Return the number of values of an input of integers; None if inputs are real."""
        return None

    @property
    def evaluated_at_once(self) -> int:
        """Return the number of samples in a batch of an evaluation, by their memory."""
        one = max(self.train.inputs.shape[1:].numel(), math.prod(self.output_shape))
        return max(1, min(_MOST_AT_ONCE, _MOST_VALUES // one))

    @property
    def class_names(self) -> list[str]:
        """Return the names of the classes; none where targets are no classes."""
        return []

    def network_input(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the network's input for a batch of `inputs`; real numbers get the type `dtype`."""
        return inputs.to(dtype) if inputs.is_floating_point() else inputs

    def formed(self, form: Form) -> Self:
        """Return images in another form. Raises UserError for other data, and a wrong form."""
        if form != Form():
            raise UserError(
                "dataset.size, channels, mean and std are of images, and these are "
                f"{self.samples}: leave them out"
            )
        return self

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float, floor: float) -> Tensor:
        """Return the mean loss of a batch. smoothing, floor: of `loss` in the config.

        Both are 0 where targets are no classes.
        """
        raise NotImplementedError

    def tally(self, device: torch.device) -> Tally:
        """Return an empty tally on the device."""
        raise NotImplementedError

    def hold_back(self, share: float, seed: int) -> tuple[Self, Samples]:
        """Return the data without a share of its training samples, and these samples.

        Both keep their order. share: above 0, at most 0.5. From a group of n samples, such as a
        class, floor(n share) or ceil(n share) are taken; a group never loses its only sample. The
        same samples in every call with the same seed.
        Raises UserError where that is no sample at all.
        """
        strata = self._strata
        # Systematic sampling: a sample is taken wherever the running total of the share passes a
        # whole number. Any n samples in a row, and so a group, hold n share of these, rounded up
        # or down.
        total = (torch.arange(len(strata) + 1, dtype=torch.float64) * share + 0.5).floor()
        taken = torch.empty(len(strata), dtype=torch.bool)
        taken[self._by_group(seed)] = total[1:] > total[:-1]
        taken &= strata.bincount()[strata] > 1
        if not taken.any():
            raise UserError(
                f"dataset.validation={share:g} of {len(taken)} training samples is none: "
                "give a larger share, at most 0.5"
            )
        return replace(self, train=self.train[~taken]), self.train[taken]

    def part(self, share: float, seed: int) -> Self:
        """Return the data with a share of its training samples, which keep their order.

        Of a group of n samples n share stay, rounded up.
        """
        strata, by_group = self._strata, self._by_group(seed)
        counts = strata.bincount()
        first = (counts.cumsum(0) - counts)[strata[by_group]]
        rank = torch.arange(len(by_group)) - first
        # In float64, less its rounding: 0.3 of 100 is 30 and not 31.
        kept_of = (counts.double() * share - 1e-9).ceil().clamp(min=1)
        stays = rank < kept_of[strata[by_group]]
        return replace(self, train=self.train[by_group[stays].sort().values])

    def with_label_noise(self, share: float, seed: int) -> Self:
        """Return the data with wrong labels. Raises UserError where targets are no classes."""
        raise UserError(f"dataset.label_noise={share:g}: the targets are no classes: set it to 0")

    def renumbered(self, numbers: Tensor) -> Samples:
        """Return the test samples with the number numbers[c] for class c."""
        return replace(self.test, targets=numbers[self.test.targets])

    def to(self, device: torch.device | str, streamed: bool = False) -> Self:
        train, test = (half.to(device, streamed) for half in (self.train, self.test))
        return replace(self, train=train, test=test)

    @property
    def interface(self) -> Interface:
        """Return the inputs and outputs of a network for these data."""
        example = self.network_input(read(self.train.inputs[:1]), torch.float32)
        return Interface(
            self.samples, tuple(example.shape[1:]), self.outputs, self.gives, self.below,
            self.scale, self.class_names, hash_of_tensors(self.gives),
        )  # fmt: skip

    @property
    def _strata(self) -> Tensor:
        """Return groups of training samples, int64 (N,); shares are drawn alike from each."""
        return torch.zeros(len(self.train), dtype=torch.int64)

    def _by_group(self, seed: int) -> Tensor:
        """Return the indices (N,), group by group, those of a group in random order."""
        strata = self._strata
        shuffled = torch.randperm(len(strata), generator=torch.Generator().manual_seed(seed))
        return shuffled[strata[shuffled].argsort(stable=True)]


def hash_of_tensors(gives: Any) -> str:
    """Return a hash of the tensors in nested dicts, empty if there are none."""
    if isinstance(gives, Tensor):
        content = gives.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return hashlib.sha256(content.tobytes()).hexdigest()[:16]
    parts = (
        [hash_of_tensors(gives[key]) for key in sorted(gives)] if isinstance(gives, dict) else []
    )
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16] if any(parts) else ""
