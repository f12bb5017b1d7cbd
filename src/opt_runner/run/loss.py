"""The reference's loss: smoothed targets, and a floor under the probabilities."""

import torch
from torch import Tensor


def smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float = 0.01, floor: float = 1e-4
) -> Tensor:
    """Return the mean over the batch of -sum_c t_c log(softmax(logits)_c + floor).

    t is 1 - smoothing at the label plus smoothing / classes everywhere. logits (batch, classes),
    labels (batch,).
    """
    classes = logits.shape[-1]
    targets = torch.nn.functional.one_hot(labels, classes).to(logits.dtype)
    targets = targets * (1 - smoothing) + smoothing / classes
    return -(targets * (logits.softmax(-1) + floor).log()).sum(-1).mean()
