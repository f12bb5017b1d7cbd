"""Classification: one label for each sample, the smoothed cross-entropy, errors and calibration."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from opt_runner.datasets.data import Data
from opt_runner.errors import UserError

_LEAST_CLASSES = 2
_BINS = 15


@dataclass(frozen=True, eq=False)
class Labelled(Data):
    """Samples with one label each: int64 (N,), indices into `classes`.

    A network gets `num_classes` and gives logits (batch, classes).
    Raises UserError if types, shapes or labels do not fit together.
    """

    classes: list[str]

    outputs: ClassVar[str] = "logits"
    output_classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.num_classes < _LEAST_CLASSES:
            raise UserError(f"{self.num_classes} classes are nothing to learn: two are the least")
        for half, labels in (("training", self.train.targets), ("test", self.test.targets)):
            if labels.dtype != torch.int64 or labels.dim() != 1:
                raise UserError(
                    f"{half} labels must be int64 (N,), got {labels.dtype} {tuple(labels.shape)}"
                )
            outside = ((labels < 0) | (labels >= self.num_classes)).nonzero()
            if len(outside):
                first = int(outside[0])
                raise UserError(
                    f"{half} label {int(labels[first])} at index {first} is out of range: "
                    f"{self.num_classes} classes allow 0 to {self.num_classes - 1}"
                )
        super().__post_init__()

    @property
    def class_names(self) -> list[str]:
        return self.classes

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def gives(self) -> dict[str, Any]:
        return {"num_classes": self.num_classes}

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.num_classes,)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float, floor: float) -> Tensor:
        """Return the smoothed cross-entropy of logits (B, classes) and targets.

        targets: labels (B,), or with mixup or CutMix probabilities (B, classes).
        """
        return smoothed_cross_entropy(outputs, targets, smoothing, floor)

    def tally(self, device: torch.device) -> "ClassTally":
        return ClassTally(device)

    def with_label_noise(self, share: float, seed: int) -> Self:
        """Return the data with a share of its training labels replaced (symmetric noise).

        A replaced label becomes any other class, all alike.
        """
        generator = torch.Generator().manual_seed(seed)
        count = round(share * len(self.train))
        wrong = torch.randperm(len(self.train), generator=generator)[:count]
        shift = torch.randint(1, self.num_classes, (count,), generator=generator)
        labels = self.train.targets.clone()
        labels[wrong] = (labels[wrong] + shift) % self.num_classes
        return replace(self, train=replace(self.train, targets=labels))

    @property
    def _strata(self) -> Tensor:
        return self.train.targets


class ClassTally:
    """Errors, likelihood and calibration of logits (B, classes) against labels (B,).

    error: the percentage of wrong answers. nll: the mean negative log-likelihood of the labels.
    calibration_error: the expected calibration error, in percent. Samples are put by confidence
    (the largest probability) into 15 bins of equal width; it is the mean over samples of |share of
    right answers - mean confidence| in their bins. Source: Guo et al., "On Calibration of Modern
    Neural Networks" (ICML 2017).
    """

    def __init__(self, device: torch.device) -> None:
        # For each bin: samples, right answers, the sum of confidences.
        self.bins = torch.zeros(3, _BINS, dtype=torch.float64, device=device)
        self.nll = torch.zeros((), dtype=torch.float64, device=device)
        self.sums = [self.bins, self.nll]

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        log_p = outputs.double().log_softmax(-1)
        self.nll -= log_p.gather(-1, targets[:, None]).sum()
        confidence = log_p.amax(-1).exp()
        right = (outputs.argmax(-1) == targets).double()
        of_bin = (confidence * _BINS).long().clamp(0, _BINS - 1)  # NaN is negative here
        for row, values in zip(self.bins, (torch.ones_like(right), right, confidence), strict=True):
            row.index_add_(0, of_bin, values)

    def numbers(self) -> dict[str, float]:
        count, right, confidence = self.bins
        samples = int(count.sum())
        return {
            "error": float(100 * (count - right).sum() / samples),
            "nll": float(self.nll) / samples,
            "calibration_error": float(100 * (right - confidence).abs().sum() / samples),
        }


def smoothed_cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float = 0.01, floor: float = 1e-4
) -> Tensor:
    """Return the reference's loss: the mean of -sum_c t_c log(softmax(logits)_c + floor).

    t is (1 - smoothing) p plus smoothing / classes for the probabilities p of the targets. logits
    (batch, classes); targets: p, (batch, classes), or labels (batch,), where p is 1. Without a
    floor it is PyTorch's cross-entropy, which does not overflow.
    """
    if floor == 0:
        return cross_entropy(logits, targets, label_smoothing=smoothing)
    classes = logits.shape[-1]
    if not targets.is_floating_point():
        targets = one_hot(targets, classes).to(logits.dtype)
    targets = targets * (1 - smoothing) + smoothing / classes
    return -(targets * (logits.softmax(-1) + floor).log()).sum(-1).mean()
