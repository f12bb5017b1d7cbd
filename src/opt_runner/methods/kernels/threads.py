"""Matrices worked on in threads of their own.

Note [A thread a matrix]: LAPACK gains little from several threads on matrices of this size (two:
1.5 times for an SVD of 576 x 576). So as many matrices as there are threads are worked on at a
time. The number of threads belongs to the process, in part: while the matrices are worked on it is
lower for whoever else computes at that moment too.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

# Smaller matrices are not worth a thread of their own.
_THREADED_FROM = 160


def each(function: Callable[..., Any], *lists: Sequence[Any]) -> list[Any]:
    """Return [function(*items) for items in zip(*lists)], in threads if that is faster.

    The last list holds tensors (..., d, m). See Note [A thread a matrix].
    """
    if torch.compiler.is_compiling():
        return [function(*items) for items in zip(*lists, strict=True)]
    tensors = lists[-1]
    threads = torch.get_num_threads()
    workers = min(threads, sum(tensor.shape[-2] >= _THREADED_FROM for tensor in tensors))
    if workers < 2 or tensors[0].device.type != "cpu":
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
    """Return this process's pool: a fork inherits the object, but not its threads."""
    return ThreadPoolExecutor(
        workers, "rotation", initializer=torch.set_num_threads, initargs=(each_worker,)
    )
