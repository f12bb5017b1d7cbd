"""The peak memory of training, each method in a process of its own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from opt_runner.bench import limits
from opt_runner.bench.part import LIMIT, Report, Row, Settings, spread, table, text
from opt_runner.bench.samples import Summary, figure, first_line
from opt_runner.bench.workloads import TIMED, WORKLOADS
from opt_runner.run.device import Device
from opt_runner.run.set_up import set_up
from opt_runner.run.step import TrainingStep

_STEPS = 5
_BATCHES = 2
_STATUS = Path("/proc/self/status")  # Linux

_HOW = {
    "cpu": "peak memory: growth of a process of its own from before the network is built to its "
    f"largest resident size (VmHWM) in {_STEPS} steps: weights, R, optimizer, activations, "
    "workspaces; not the interpreter nor the store of images, which would hide the differences",
    "cuda": "peak memory: the most that PyTorch's allocator held at once (max_memory_allocated) "
    f"in {_STEPS} steps in a process of its own, with a store of {_BATCHES} batches",
}


NOT_MEASURED = f"peak memory: not measured, this system has no {_STATUS}"


def measurable(settings: Settings) -> bool:
    return settings.device.torch_device.type == "cuda" or _STATUS.exists()


def how(settings: Settings) -> str:
    """What the figures are, in words."""
    return _HOW[settings.device.torch_device.type]


def measure(network: str, report: Report, settings: Settings) -> None:
    """Add rows, a table and notes to the report."""
    if not measurable(settings):
        report.notes.append(NOT_MEASURED)
        return
    settings.screen.say(f"steps: peak memory of {network}")
    rows: list[Row] = []
    for method in ["standard", "cayley"] if settings.quick else TIMED:
        row: Row = {"measure": "memory", "network": network, "method": method, "error": None}
        rows.append(row)
        try:
            peaks = [
                peak_bytes(network, [f"method={method}"], settings)
                for _ in range(settings.count(3))
            ]
        except RuntimeError as error:
            if method == "standard":
                raise
            row["error"] = first_line(error)
            continue
        row["peak_bytes"] = Summary.of(peaks)
        row["ratio"] = row["peak_bytes"].median / rows[0]["peak_bytes"].median
        row |= limits.judged(f"peak memory, {network}", row["ratio"], method)
    columns = {
        "method": text("method"),
        "ratio to standard": lambda row: figure(row["ratio"]),
        "MiB": spread("peak_bytes", scale=2**-20),
        **LIMIT,
    }
    title = f"Peak memory of training {network}; median [quartiles] of n = {settings.count(3)}"
    report.rows += rows
    report.tables.append(table(f"{title} processes", columns, rows))
    report.notes += [how(settings), *limits.notes(f"peak memory, {network}")]


def peak_bytes(network: str, method: Sequence[str], settings: Settings) -> int:
    """The peak of `_STEPS` steps of a workload, in bytes, measured in a new process.

    method: as arguments of opt-run.

    Raises RuntimeError, with the process's last line, where it fails.
    """
    command = [sys.executable, "-m", __name__, network, *method, *settings.arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else "no message")
    return int(done.stdout.splitlines()[-1])


def _main(network: str, *arguments: str) -> None:
    """The new process: print the bytes that training with these arguments of opt-run takes."""
    config = WORKLOADS[network].config(*arguments)
    device = Device.of(config.hardware).torch_device
    images = WORKLOADS[network].images(_BATCHES * config.batch_size)
    before = held(device)
    step = TrainingStep(set_up(config, images))
    for _ in range(_STEPS):
        step()
    print(peak(device) - before)


def held(device: torch.device) -> int:
    """What is held now, in bytes; the peak is counted anew from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM <- VmRSS
    return _status("VmRSS")


def peak(device: torch.device) -> int:
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
    _main(*sys.argv[1:])
