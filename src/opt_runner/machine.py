"""The cores, the memory and the GPUs that this process may use.

Control groups (cgroups) limit a container or a Slurm job. Groups are nested, and each may set a
limit, so the least limit from this process's group up to the root applies. Documented in Linux's
admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_ROOT = Path("/")


def available_cores(root: Path = _ROOT) -> int:
    """Return the number of cores that this process may use: its affinity and CPU quota.

    A quota is rounded down to whole cores, but to one core at least.
    root: the folder that holds `proc` and `sys`.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(int(quota) for quota in _cpu_quotas(root))]))


def threads_of_environment() -> int | None:
    """Return OMP_NUM_THREADS; None if it is not set or not a positive number."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(given) if given.isdecimal() and int(given) > 0 else None


def visible_gpus() -> list[str]:
    """Return the GPUs that CUDA finds, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()  # CUDA ignores all names after the first unknown one
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if given is None else given.split(",")
    return [name.strip() for name in names][:count]


def free_memory(device: "torch.device", root: Path = _ROOT) -> int | None:
    """Return the bytes that are free on the device for this process; None if not known.

    On a CPU this is the memory that the system has available or, if less, that a cgroup's limit
    leaves. Cached file pages count as free, because Linux drops them when memory is needed.
    root: the folder that holds `proc` and `sys`.
    """
    if device.type == "cuda":
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    available = _fields(root / "proc/meminfo").get("MemAvailable:")
    return None if available is None else min([1024 * available, *_left_of_cgroups(root)])


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quota, in cores, of each cgroup that has one."""
    for group in _groups(root, "cpu"):
        match _words(group / "cpu.max") or [
            *_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")
        ]:  # fmt: skip
            case [quota, period] if quota not in ("max", "-1"):
                yield int(quota) / int(period)


def _left_of_cgroups(root: Path) -> Iterator[int]:
    """Yield the bytes that each cgroup with a memory limit leaves."""
    for group in _groups(root, "memory"):
        limit = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
        used = _words(group / "memory.current") or _words(group / "memory.usage_in_bytes")
        if limit in ([], ["max"]) or not used:
            continue
        pages = _fields(group / "memory.stat")
        # In version 1 these names are the group's own pages; `total_` includes its children.
        cached = sum(
            pages.get(f"total_{name}", pages.get(name, 0))
            for name in ("active_file", "inactive_file")
        )
        yield max(0, int(limit[0]) - max(0, int(used[0]) - cached))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroups for a controller, up to the root.

    In a container the path may be the host's. Then only the last group exists, as the root; missing
    folders are left out.
    """
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            top = mount / "unified" if (mount / "unified").is_dir() else mount
        elif controller in controllers.split(","):
            top = mount / controller
        else:
            continue
        inner = Path(*[part for part in Path(path).parts if part not in ("/", "..")])
        yield from (top / folder for folder in (inner, *inner.parents) if (top / folder).is_dir())


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file with lines of `name number`."""
    words = [line.split() for line in _lines(path)]
    return {name: int(number) for name, number, *_ in words}


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
