"""Matrix routines that several methods share.

Note [LU one at a time on the CPU]: batched LU on the CPU (torch 2.13 and 2.15, pytorch issue
142815) silently returns garbage with two threads or more from about 160 x 160 up. Every routine
here therefore takes the matrices of a batch one by one on the CPU, which costs nothing there, and
the whole batch at once on CUDA, where one kernel per matrix would dominate.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def each(function: Callable[..., tuple[Tensor, ...]], *stacks: Tensor) -> tuple[Tensor, ...]:
    """`function` over stacks (k, ...): matrix by matrix on the CPU, else the whole batch at once.

    See Note [LU one at a time on the CPU].
    """
    if stacks[0].device.type != "cpu":
        return function(*stacks)
    results = [function(*matrices) for matrices in zip(*stacks, strict=True)]
    if len(results) == 1:
        return tuple(part.unsqueeze(0) for part in results[0])
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def positive_signs(factors: Tensor) -> Tensor:
    """D (..., d) of +1 and -1 that makes the diagonal of D U positive, U from `torch.geqrf`."""
    diagonal = factors.diagonal(dim1=-2, dim2=-1)
    return torch.where(diagonal < 0, -1.0, 1.0).to(factors.dtype)
