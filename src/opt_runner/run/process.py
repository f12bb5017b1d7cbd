"""This process: settings that make training on a CPU faster, and torchrun's variables.

The settings do not change results. This module does not import torch.
"""

import ctypes
import os
import sys

# glibc's <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_TORCHRUN = (*PLACE, "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


def started_by_torchrun() -> bool:
    """Return True if all variables of torchrun are set."""
    return all(os.environ.get(name) for name in _TORCHRUN)


def spin_briefly() -> None:
    """Let OpenMP's threads spin for about 0.1 ms only. Call this before torch is imported.

    GNU OpenMP's default is several milliseconds, during which the threads of rotations wait.
    The user's own OMP_WAIT_POLICY or GOMP_SPINCOUNT takes precedence.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def keep_freed_memory() -> None:
    """Let glibc's malloc keep freed memory for the next step, instead of returning it.

    By default the kernel maps and zeroes every tensor above 32 MiB again in every step, which takes
    a quarter of a step of CNN-9. Has no effect with another C library.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
