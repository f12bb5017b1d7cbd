"""The peak memory of training, each method in a process of its own."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from opt_runner import config
from opt_runner.bench.forms import eager
from opt_runner.bench.settings import Settings
from opt_runner.bench.workloads import WORKLOADS
from opt_runner.hardware import set_up

_STEPS = 5
_BATCHES = 2
_STATUS = Path("/proc/self/status")

# How it is measured, by the type of the device.
HOW = {
    "cpu": "peak memory: growth of a process of its own from before the network is built to its "
    f"largest resident size (VmHWM) in {_STEPS} steps: weights, R, optimizer, activations, "
    "workspaces; not the interpreter nor the store of images, which would hide the differences",
    "cuda": "peak memory: the most that PyTorch's allocator held at once (max_memory_allocated) "
    f"in {_STEPS} steps in a process of its own, with a store of {_BATCHES} batches",
}


def measurable(device: torch.device) -> bool:
    """Whether this system tells a process its largest resident size (Linux does)."""
    return device.type == "cuda" or _STATUS.exists()


def peak_bytes(network: str, method: str, device: torch.device, settings: Settings) -> int:
    """The peak of `_STEPS` steps of a workload, in bytes, measured in a new process.

    Raises RuntimeError, with the process's last line, where it fails.
    """
    command = [sys.executable, "-m", __name__, network, method, str(device), str(settings.threads)]
    if settings.plain_malloc:
        command.append("--plain-malloc")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else "no message")
    return int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])


def main() -> None:
    """The new process: print what one method took."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("network", choices=WORKLOADS)
    parser.add_argument("method")
    parser.add_argument("device")
    parser.add_argument("threads", type=int)
    parser.add_argument("--plain-malloc", action="store_true")
    given = parser.parse_args()
    hardware = set_up(
        config.Hardware(
            device=given.device,
            precision="float32",
            threads=given.threads,
            channels_last=True,
            compile=False,
            reuse_memory=not given.plain_malloc,
        )
    )
    workload = WORKLOADS[given.network]
    store = workload.store(_BATCHES * workload.batch_size)
    before = _held_and_reset(hardware.device)
    step = eager(workload, given.method, store, hardware)
    for _ in range(_STEPS):
        step()
    print(json.dumps({"peak_bytes": _peak(hardware.device) - before}))


def _held_and_reset(device: torch.device) -> int:
    """What is held now, in bytes; the peak is counted anew from here."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM <- VmRSS
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes.

    Not getrusage's ru_maxrss: Linux lets a process inherit that from the one that started it.
    """
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise RuntimeError(f"{_STATUS} has no {field}")


if __name__ == "__main__":
    main()
