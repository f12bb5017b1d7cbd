"""Conditions of training: images held back, a share of the images, wrong labels."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from opt_runner.datasets.images import Images
from opt_runner.datasets.stored import Stored
from opt_runner.errors import UserError


@dataclass(frozen=True, eq=False)
class Validation:
    """Held-out images, uint8 (N, C, H, W), in memory or `Stored`, and labels, int64 (N,)."""

    images: Tensor | Stored
    labels: Tensor

    def to(self, device: torch.device | str, streamed: bool = False) -> Self:
        """Return the same on `device`; streamed: images stay where they are."""
        images = self.images if streamed else self.images.to(device)
        return replace(self, images=images, labels=self.labels.to(device))


def hold_back(data: Images, share: float, seed: int) -> tuple[Images, Validation]:
    """Return the data with fewer training images, and those taken from them; both keep their order.

    share: above 0, at most 0.5. From a class of n images, floor(n share) or
    ceil(n share) are taken; a class never loses its only image. The same images in every call
    with the same seed.
    Raises UserError where that is no image at all.
    """
    taken = _taken(data.train_labels, share, seed)
    if not taken.any():
        raise UserError(
            f"dataset.validation={share:g} of {len(taken)} training images is no image: "
            "give a larger share, at most 0.5"
        )
    kept = replace(
        data, train_images=data.train_images[~taken], train_labels=data.train_labels[~taken]
    )
    return kept, Validation(data.train_images[taken], data.train_labels[taken])


def part(data: Images, share: float, seed: int) -> Images:
    """Return the data with a share of its training images, which keep their order.

    Of a class of n images n share stay, rounded up.
    """
    by_class = _shuffled_by_class(data.train_labels, seed)
    counts = data.train_labels.bincount()
    first = (counts.cumsum(0) - counts)[data.train_labels[by_class]]
    rank = torch.arange(len(by_class)) - first
    # In float64, less its rounding: 0.3 of 100 is 30 and not 31.
    kept_of = (counts.double() * share - 1e-9).ceil().clamp(min=1)
    stays = rank < kept_of[data.train_labels[by_class]]
    kept = by_class[stays].sort().values
    return replace(data, train_images=data.train_images[kept], train_labels=data.train_labels[kept])


def with_label_noise(data: Images, share: float, seed: int) -> Images:
    """Return the data with `share` of the training labels replaced (symmetric noise).

    A replaced label becomes any other class, all alike.
    """
    labels, classes = data.train_labels, data.num_classes
    generator = torch.Generator().manual_seed(seed)
    count = round(share * len(labels))
    if count and classes < 2:
        raise UserError("dataset.label_noise needs two classes: there is one")
    wrong = torch.randperm(len(labels), generator=generator)[:count]
    shift = torch.randint(1, max(2, classes), (count,), generator=generator)
    noisy = labels.clone()
    noisy[wrong] = (labels[wrong] + shift) % classes
    return replace(data, train_labels=noisy)


def _taken(labels: Tensor, share: float, seed: int) -> Tensor:
    """Return a mask of the held-out images, bool (N,)."""
    by_class = _shuffled_by_class(labels, seed)
    # Systematic sampling: an image is taken wherever the running total of the share passes a whole
    # number. Any n images in a row, and so a class, hold n share of these, rounded up or down.
    total = (torch.arange(len(labels) + 1, dtype=torch.float64) * share + 0.5).floor()
    taken = torch.empty(len(labels), dtype=torch.bool)
    taken[by_class] = total[1:] > total[:-1]
    return taken & (labels.bincount()[labels] > 1)


def _shuffled_by_class(labels: Tensor, seed: int) -> Tensor:
    """Return the indices (N,), class by class, those of a class in random order."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return shuffled[labels[shuffled].argsort(stable=True)]
