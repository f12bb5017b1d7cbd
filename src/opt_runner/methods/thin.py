"""Methods whose Q(R) W, thin as W is, has a gradient written by hand.

Note [LU one at a time on the CPU]: batched LU on the CPU (torch 2.13 and 2.15, pytorch issue
142815) silently returns garbage with two threads or more from about 160 x 160 up. A stack is
therefore taken apart into its matrices on the CPU, and left whole on CUDA, where one kernel per
matrix would dominate.

Note [A thread a matrix]: LAPACK gains little from several threads on matrices of this size (two:
1.5 times for an SVD of 576 x 576). So as many matrices as there are threads are worked on at a
time. The number of threads belongs to the process, in part: while the matrices are worked on it is
lower for whoever else computes at that moment too.

Note [Multiples of 512]: columns 2 KiB apart share so few lines of a CPU's cache that LAPACK takes
1.4 to 1.7 times as long (QR, LU and SVD of 1024 x 1024). Such an R is replaced by
diag(I, R) with a few more rows: Q(diag(I, R)) = diag(I, Q(R)) for every method here. The rows are
even in number and come first for the sake of `hr`, whose det Q depends on d.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from opt_runner.methods.base import Method, method_options

Kept = tuple[Tensor, ...]


@method_options
class ThinMethod(Method):
    """A method given by `apply` and `gradient`.

    Both get one matrix or a whole stack, `(..., d, d)`: see Note [LU one at a time on the CPU].
    They run in threads, on the CPU, and must not change what they are given.
    """

    @staticmethod
    def apply(R: Tensor, W: Tensor) -> tuple[Tensor, Kept]:
        """V = Q(R) W, and what `gradient` needs of it."""
        raise NotImplementedError

    @staticmethod
    def gradient(kept: Kept, G: Tensor) -> Tensor:
        """dL/dR from G = dL/dV."""
        raise NotImplementedError

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        return self._thin([R], [W])[0]

    def rotate_all(self, Rs: Sequence[Tensor], Ws: Sequence[Tensor]) -> list[Tensor]:
        if type(self).rotate is not ThinMethod.rotate:  # a user's method, derived from one of these
            return super().rotate_all(Rs, Ws)
        return self._thin(Rs, Ws)

    def _thin(self, Rs: Sequence[Tensor], Ws: Sequence[Tensor]) -> list[Tensor]:
        # Of a layer of more than d neurons Q itself is the smaller thing to make.
        thin = [W if W.shape[-1] <= W.shape[-2] else _identities(W) for W in Ws]
        Vs: tuple[Tensor, ...] = _Rotate.apply(self.apply, self.gradient, *Rs, *thin)
        return [V if W is w else V @ W for V, W, w in zip(Vs, Ws, thin, strict=True)]


def _identities(W: Tensor) -> Tensor:
    """I (d, d) for each of the stack W (k, d, n)."""
    d = W.shape[-2]
    return torch.eye(d, dtype=W.dtype, device=W.device).expand(len(W), d, d)


class _Rotate(torch.autograd.Function):
    """V of each stack R (k, d, d) and W (k, d, n): all stacks in one node, to share threads."""

    @staticmethod
    def forward(
        ctx: Any,
        apply: Callable[[Tensor, Tensor], tuple[Tensor, Kept]],
        gradient: Callable[[Kept, Tensor], Tensor],
        *stacks: Tensor,
    ) -> tuple[Tensor, ...]:
        Rs, Ws = stacks[: len(stacks) // 2], stacks[len(stacks) // 2 :]

        def run(R: Tensor, W: Tensor) -> tuple[Tensor, Kept]:
            extra = _extra_rows(W)
            if not extra:
                return apply(R, W)
            V, kept = apply(_bordered(R, extra), _bordered_rows(W, extra))
            return V[extra:], kept

        results = _each(run, _parts(Rs), _parts(Ws))
        kept = [tensors for _, tensors in results]
        ctx.save_for_backward(*(tensor for tensors in kept for tensor in tensors))
        ctx.size = len(kept[0])
        ctx.gradient = gradient
        return _joined([V for V, _ in results], [len(R) for R in Rs])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *Gs: Tensor) -> tuple[Tensor | None, ...]:
        saved, size = ctx.saved_tensors, ctx.size
        kept = [saved[start : start + size] for start in range(0, len(saved), size)]
        dRs = [G.new_empty(*G.shape[:-1], G.shape[-2]) for G in Gs]

        def write(kept: Kept, G: Tensor, dR: Tensor) -> None:
            extra = _extra_rows(G)
            if extra:
                dR.copy_(ctx.gradient(kept, _bordered_rows(G, extra))[extra:, extra:])
            else:
                dR.copy_(ctx.gradient(kept, G))

        _each(write, kept, _parts(Gs), _parts(dRs))
        return None, None, *dRs, *([None] * len(dRs))


def _extra_rows(W: Tensor) -> int:
    """See Note [Multiples of 512]."""
    return 8 if W.device.type == "cpu" and W.shape[-2] % 512 == 0 else 0


def _bordered(R: Tensor, extra: int) -> Tensor:
    """diag(I, R)."""
    bordered = F.pad(R, (extra, 0, extra, 0))
    bordered.diagonal()[:extra] = 1
    return bordered


def _bordered_rows(W: Tensor, extra: int) -> Tensor:
    return F.pad(W, (0, 0, extra, 0))


def _parts(stacks: Sequence[Tensor]) -> list[Tensor]:
    """The matrices of all stacks on the CPU, else the stacks."""
    if stacks[0].device.type != "cpu":
        return list(stacks)
    return [matrix for stack in stacks for matrix in stack]


def _joined(parts: list[Tensor], lengths: list[int]) -> tuple[Tensor, ...]:
    """The stacks of such lengths again."""
    if parts[0].device.type != "cpu":
        return tuple(parts)
    matrices = iter(parts)
    return tuple(torch.stack([next(matrices) for _ in range(length)]) for length in lengths)


# Smaller matrices are not worth a thread of their own.
_THREADED_FROM = 160


def _each(function: Callable[..., Any], *lists: Sequence[Any]) -> list[Any]:
    """[function(*items) for items in zip(*lists)], in threads where that is faster.

    The last list holds tensors (..., d, m). See Note [A thread a matrix].
    """
    tensors = lists[-1]
    threads = torch.get_num_threads()
    workers = min(threads, sum(tensor.shape[-2] >= _THREADED_FROM for tensor in tensors))
    if workers < 2 or tensors[0].device.type != "cpu" or torch.compiler.is_compiling():
        return [function(*items) for items in zip(*lists, strict=True)]
    # The largest first: what is left at the end is small, and no thread waits long.
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].shape[-2])
    each_worker = threads // workers
    pool = _pool(os.getpid(), workers, each_worker)
    torch.set_num_threads(each_worker)
    try:
        run = torch.no_grad()(function)
        futures = {i: pool.submit(run, *(items[i] for items in lists)) for i in order}
        return [futures[i].result() for i in range(len(tensors))]
    finally:
        torch.set_num_threads(threads)


@cache
def _pool(process: int, workers: int, each_worker: int) -> ThreadPoolExecutor:
    """One pool for each process: a fork inherits the object, but not its threads."""
    return ThreadPoolExecutor(
        workers, "rotation", initializer=torch.set_num_threads, initargs=(each_worker,)
    )
