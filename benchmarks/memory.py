"""Peak memory: of a process that trains, and of PyTorch's allocator."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.report import Row, Settings
from benchmarks.samples import Summary
from benchmarks.workloads import WORKLOADS
from opt_runner.run.device import Device

_STEPS = 5
_BATCHES = 2

HOW = {
    "cpu": "peak memory: growth of a process of its own from before the network is built to its "
    f"largest resident size (VmHWM) in {_STEPS} steps: weights, R, optimizer, activations, "
    "workspaces; without the interpreter, its modules and the images, which would hide the "
    "differences",
    "cuda": "peak memory: the most that PyTorch's allocator held at once (max_memory_allocated) "
    f"in {_STEPS} steps in a process of its own, with {_BATCHES} batches of images",
}


def row_of(network: str, name: str, method: Sequence[str], samples: int, settings: Settings) -> Row:
    """Return a row with the peak of `_STEPS` steps, in bytes, each sample in a new process.

    method: arguments of opt-run. The row has the process's last line as `error` if it fails.
    """
    row: Row = {"measure": "memory", "network": network, "method": name, "error": None}
    command = [sys.executable, "-m", __name__, network, *method, *settings.arguments]
    peaks = []
    for _ in range(samples):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return row | {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
        peaks.append(int(done.stdout.splitlines()[-1]))
    return row | {"peak_bytes": Summary.of(peaks)}


def _main(network: str, *arguments: str) -> None:
    """Print the bytes that training with these arguments of opt-run takes."""
    config = WORKLOADS[network].config(*arguments)
    device = Device.of(config.hardware).torch_device
    images = WORKLOADS[network].images(_BATCHES * (config.batch_size or 1))
    tiny = WORKLOADS["cnn9_tiny"]
    tiny.step(tiny.images_for(*arguments), *arguments)()  # a first step imports modules
    before = held(device)
    step = WORKLOADS[network].step(images, *arguments)
    for _ in range(_STEPS):
        step()
    print(peak(device) - before)


def peak_allocated(run: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that PyTorch's allocator gives out at once during `run`.

    Exact, and the same on a busy machine. On a CPU the memory of the libraries under PyTorch (MKL)
    and of other threads is not counted.
    """
    if device.type == "cuda":
        before = held(device)
        run()
        return peak(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # keeps the profiler off the terminal
    gc.collect()  # what is freed during the run would count as less than nothing
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    sizes = (event.nbytes() for event in events if event.name() == "[memory]")
    return max(accumulate(sizes, initial=0))


def held(device: torch.device) -> int:
    """Return the bytes held now, and restart the measurement of the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM <- VmRSS
    return _status("VmRSS")


def peak(device: torch.device) -> int:
    """Return the most bytes held since `held`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(field: str) -> int:
    """Return a field of /proc/self/status, in bytes.

    getrusage's ru_maxrss would not do: a process inherits it from its parent on Linux.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    _main(*sys.argv[1:])
