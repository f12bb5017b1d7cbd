"""Conditions of training: samples held back, a share of the samples, wrong labels.

strata, int64 (N,): groups of the samples from which shares are drawn alike, such as classes.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from opt_runner.errors import UserError

if TYPE_CHECKING:
    from opt_runner.datasets.data import Samples


def hold_back(
    samples: "Samples", strata: Tensor, share: float, seed: int
) -> tuple["Samples", "Samples"]:
    """Return fewer samples, and those taken from them; both keep their order.

    share: above 0, at most 0.5. From a group of n samples, floor(n share) or
    ceil(n share) are taken; a group never loses its only sample. The same samples in every call
    with the same seed.
    Raises UserError where that is no sample at all.
    """
    by_group = _shuffled_by_group(strata, seed)
    # Systematic sampling: a sample is taken wherever the running total of the share passes a whole
    # number. Any n samples in a row, and so a group, hold n share of these, rounded up or down.
    total = (torch.arange(len(strata) + 1, dtype=torch.float64) * share + 0.5).floor()
    taken = torch.empty(len(strata), dtype=torch.bool)
    taken[by_group] = total[1:] > total[:-1]
    taken &= strata.bincount()[strata] > 1
    if not taken.any():
        raise UserError(
            f"dataset.validation={share:g} of {len(taken)} training samples is none: "
            "give a larger share, at most 0.5"
        )
    return samples[~taken], samples[taken]


def part(samples: "Samples", strata: Tensor, share: float, seed: int) -> "Samples":
    """Return a share of the samples, which keep their order.

    Of a group of n samples n share stay, rounded up.
    """
    by_group = _shuffled_by_group(strata, seed)
    counts = strata.bincount()
    first = (counts.cumsum(0) - counts)[strata[by_group]]
    rank = torch.arange(len(by_group)) - first
    # In float64, less its rounding: 0.3 of 100 is 30 and not 31.
    kept_of = (counts.double() * share - 1e-9).ceil().clamp(min=1)
    stays = rank < kept_of[strata[by_group]]
    return samples[by_group[stays].sort().values]


def noisy(labels: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """Return the labels (N,) with `share` of them replaced (symmetric noise).

    A replaced label becomes any other class, all alike.
    """
    generator = torch.Generator().manual_seed(seed)
    count = round(share * len(labels))
    wrong = torch.randperm(len(labels), generator=generator)[:count]
    shift = torch.randint(1, classes, (count,), generator=generator)
    changed = labels.clone()
    changed[wrong] = (labels[wrong] + shift) % classes
    return changed


def _shuffled_by_group(strata: Tensor, seed: int) -> Tensor:
    """Return the indices (N,), group by group, those of a group in random order."""
    shuffled = torch.randperm(len(strata), generator=torch.Generator().manual_seed(seed))
    return shuffled[strata[shuffled].argsort(stable=True)]
