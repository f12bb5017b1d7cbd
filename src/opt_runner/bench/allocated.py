"""The memory that PyTorch's allocators give out while something runs: exact, and the same on a
busy machine, unlike the growth of a process."""

import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from opt_runner.bench import memory


def peak_allocated(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes held at once by what is allocated within `run`.

    On a CPU without what the libraries under PyTorch (MKL) allocate for themselves, and without
    what other threads than this one allocate.
    """
    if device.type == "cuda":
        before = memory.held(device)
        run()
        return memory.peak(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # no word of the profiler's on the terminal
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
