"""The validation set: a share of the training images that is held back from training."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from opt_runner.datasets.images import Images
from opt_runner.errors import UserError


@dataclass(frozen=True, eq=False)
class Validation:
    """images: uint8 (N, C, H, W); labels: int64 (N,)."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same images on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def hold_back(data: Images, share: float, seed: int) -> tuple[Images, Validation]:
    """The data with fewer training images, and those taken from them; both keep their order.

    share: above 0, at most 0.5. Of a class of n images less than one more or less than n share is
    taken, and never its only one. The same images in every call with the same seed.
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


def _taken(labels: Tensor, share: float, seed: int) -> Tensor:
    """Which images, bool (N,)."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    # Systematic sampling: an image is taken wherever the running total of the share passes a whole
    # number. Any n images in a row, and so a class, hold n share of these, rounded up or down.
    total = (torch.arange(len(labels) + 1, dtype=torch.float64) * share + 0.5).floor()
    taken = torch.empty(len(labels), dtype=torch.bool)
    taken[by_class] = total[1:] > total[:-1]
    return taken & (labels.bincount()[labels] > 1)
