"""The machine's limits, read from emulated trees of `proc` and `sys`."""

import os
from pathlib import Path

import pytest
import torch

from opt_runner.machine import available_cores, free_memory, threads_of_environment, visible_gpus

CPU = torch.device("cpu")
GIB = 2**30
MOUNT = "sys/fs/cgroup"


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return 8


def tree(root: Path, own: str, files: dict[str, object]) -> Path:
    """own: the content of /proc/self/cgroup. files: paths below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    (root / "proc/meminfo").write_text(
        f"MemTotal: {99 * 2**20} kB\nMemAvailable: {64 * 2**20} kB\nHugePages_Total: 0\n"
    )
    for name, content in files.items():
        path = root / MOUNT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000"}, 8),
        # Slurm's: the job's limit is above the step's
        ("0::/slurm/job_7/step_0\n", {"slurm/job_7/cpu.max": "300000 100000",
                                      "slurm/job_7/step_0/cpu.max": "max 100000"}, 3),
        ("0::/slurm/job_7/step_0\n", {"slurm/job_7/cpu.max": "300000 100000",
                                      "slurm/job_7/step_0/cpu.max": "100000 50000"}, 2),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": -1, "cpu/cpu.cfs_period_us": 100000}, 8),
        ("4:cpu,cpuacct:/a\n0::/\n", {"cpu/cpu.cfs_quota_us": 600000,
                                      "cpu/cpu.cfs_period_us": 100000,
                                      "cpu/a/cpu.cfs_quota_us": 400000,
                                      "cpu/a/cpu.cfs_period_us": 100000,
                                      "unified/cgroup.procs": 1}, 4),
        # a container that is told its path on the host
        ("4:cpu,cpuacct:/docker/0123\n", {"cpu/cpu.cfs_quota_us": 150000,
                                          "cpu/cpu.cfs_period_us": 100000}, 1),
        ("0::/../../above\n", {"cpu.max": "200000 100000"}, 2),
    ],
)  # fmt: skip
def test_a_cpu_quota_limits_the_cores(
    tmp_path: Path, cores: int, own: str, files: dict[str, object], expected: int
) -> None:
    assert available_cores(tree(tmp_path, own, files)) == expected


def test_without_cgroups_the_affinity_counts(tmp_path: Path, cores: int) -> None:
    assert available_cores(tmp_path) == cores


def stat(inactive: int, active: int, **more: int) -> str:
    pages = {"anon": 5 * GIB, "inactive_file": inactive, "active_file": active, **more}
    return "\n".join(f"{name} {number}" for name, number in pages.items())


_V1 = {
    "memory/memory.limit_in_bytes": 10 * GIB,
    "memory/memory.usage_in_bytes": 9 * GIB,
    "memory/memory.stat": stat(0, 0, total_inactive_file=3 * GIB, total_active_file=GIB),
}


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {}, 64),
        ("0::/\n", {"memory.max": "max", "memory.current": 9 * GIB}, 64),
        ("0::/\n", {"memory.max": 10 * GIB, "memory.current": 4 * GIB}, 6),
        ("0::/\n", {"memory.max": 10 * GIB, "memory.current": 9 * GIB,
                    "memory.stat": stat(3 * GIB, GIB)}, 5),
        ("0::/\n", {"memory.max": 10 * GIB, "memory.current": 12 * GIB}, 0),
        ("0::/\n", {"memory.max": 400 * GIB, "memory.current": 0}, 64),
        ("0::/job/step\n", {"job/memory.max": 10 * GIB, "job/memory.current": 4 * GIB,
                            "job/step/memory.max": "max", "job/step/memory.current": GIB}, 6),
        ("0::/job/step\n", {"job/memory.max": 10 * GIB, "job/memory.current": 4 * GIB,
                            "job/step/memory.max": 3 * GIB, "job/step/memory.current": GIB}, 2),
        ("3:memory:/\n", _V1, 5),
        ("3:memory:/docker/0123\n0::/\n", _V1, 5),
        ("3:memory:/\n", {**_V1, "memory/memory.limit_in_bytes": 9223372036854771712}, 64),
        ("3:memory:/a\n", {**_V1, "memory/a/memory.limit_in_bytes": 2 * GIB,
                           "memory/a/memory.usage_in_bytes": GIB}, 1),
    ],
)  # fmt: skip
def test_a_memory_limit_leaves_all_but_the_use_without_cached_files(
    tmp_path: Path, own: str, files: dict[str, object], expected: int
) -> None:
    assert free_memory(CPU, tree(tmp_path, own, files)) == expected * GIB


def test_free_memory_is_unknown_without_proc(tmp_path: Path) -> None:
    assert free_memory(CPU, tmp_path) is None


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="reads /proc")
def test_this_machine_has_limits() -> None:
    assert available_cores() >= 1
    assert (free_memory(CPU) or 0) > 2**20


@pytest.mark.parametrize(
    ("given", "count", "expected"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("0,1", 0, []),  # set on a machine without GPUs
        ("", 0, []),
        ("-1", 0, []),
        ("3, 1", 2, ["3", "1"]),
        ("0,9,1", 1, ["0"]),  # CUDA stops at a GPU that is not there
        ("GPU-8f3a", 1, ["GPU-8f3a"]),
    ],
)
def test_visible_gpus_are_those_that_cuda_finds(
    monkeypatch: pytest.MonkeyPatch, given: str | None, count: int, expected: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert visible_gpus() == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), ("", None), ("3", 3), ("4,2", 4), ("0", None), ("x", None)],
)
def test_threads_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: int | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads_of_environment() == expected
