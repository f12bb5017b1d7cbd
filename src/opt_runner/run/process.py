"""Settings of the process that make training on a CPU faster. They do not change results."""

import ctypes
import os
import sys

# glibc's <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def spin_briefly() -> None:
    """Let OpenMP's threads wait for work actively for some 0.1 ms only; to call before torch loads.

    GNU OpenMP's default is several milliseconds, in which they take the cores from the threads
    that rotations run in. An environment variable of the user's takes precedence.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def keep_freed_memory() -> None:
    """Let glibc's malloc keep what is freed for the next step, instead of returning it.

    By default every activation above 32 MiB is mapped anew at every step, and zeroed by the kernel:
    a quarter of a step of CNN-9. Does nothing where the C library is another.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
