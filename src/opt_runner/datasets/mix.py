"""Mixup and CutMix: batches in which each image is mixed with its neighbour, labels included."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot


@dataclass(frozen=True)
class Mix:
    """Mixup, CutMix, or both, each for half of the images.

    Mixup: (1 - s) x + s x' for an image x and its partner x', where 1 - s has the distribution
    Beta(mixup, mixup). CutMix: x with a box of x', whose share s of the area is as 1 - s of Beta(
    cutmix, cutmix), before the box is cut at the edges. Targets are (1 - s) y + s y' for one-hot y.
    Partners are neighbours in the shuffled batch: each pair (0, 1), (2, 3), ... is mixed both ways.

    Sources: Zhang et al., "mixup" (ICLR 2018); Yun et al., "CutMix" (ICCV 2019).

    mixup, cutmix: parameters of the distributions; None: not used.
    """

    mixup: float | None
    cutmix: float | None
    classes: int

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw for `count` images, on the CPU: float64 (count, 4).

        Values: s; 1 for CutMix, 0 for mixup; the centre of the box, down and across, in 0..1.
        """
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        # torch's Beta takes no generator.
        random = np.random.default_rng(seed)
        of_mixup, of_cutmix = (
            random.beta(alpha or 1.0, alpha or 1.0, count) for alpha in (self.mixup, self.cutmix)
        )
        likely = 0.0 if self.cutmix is None else 0.5 if self.mixup else 1.0
        cut = random.random(count) < likely
        kept = np.where(cut, of_cutmix, of_mixup)
        return torch.from_numpy(np.stack([1 - kept, cut, *random.random((2, count))], axis=1))

    def apply(self, images: Tensor, labels: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W), mixed, and their targets, probabilities (B, classes).

        images: real numbers. labels: int64 (B,). drawn: as `draw` gives it. All on one device.
        """
        count, _, height, width = images.shape
        partner = (torch.arange(count, device=images.device) ^ 1).clamp(max=count - 1)
        share, cut, y, x = drawn[:, :, None, None].unbind(1)
        half = share.sqrt() / 2
        rows = (_centres(height, drawn.device)[:, None] - y).abs() < half
        columns = (_centres(width, drawn.device) - x).abs() < half
        mask = torch.where(cut > 0, (rows & columns).double(), share)  # (B, H, W)
        of_partner = mask.mean((1, 2))[:, None].to(images.dtype)
        mixed = torch.lerp(images, images[partner], mask[:, None].to(images.dtype))
        targets = one_hot(labels, self.classes).to(images.dtype)
        return mixed, torch.lerp(targets, targets[partner], of_partner)


def _centres(side: int, device: torch.device) -> Tensor:
    """Return the centres of `side` pixels between 0 and 1, float64 (side,)."""
    return (torch.arange(side, dtype=torch.float64, device=device) + 0.5) / side
