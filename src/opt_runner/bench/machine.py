"""What the figures were measured on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from opt_runner.hardware import Hardware


def describe(hardware: Hardware) -> dict[str, Any]:
    """Processor, GPU and versions, as the JSON files hold them."""
    return {
        "hardware": {
            "device": hardware.name,
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if _LINUX else os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            # Of the last minute: what else ran. Threads that wait for each other at every
            # operation are slowed down many times by one busy neighbour.
            "load": round(os.getloadavg()[0], 2),
            # Convolutions in TF32 are faster and coarser; PyTorch allows them by default.
            "tf32": {
                "convolutions": torch.backends.cudnn.allow_tf32,
                "products": torch.backends.cuda.matmul.allow_tf32,
            },
        },
        "torch": version("torch"),
        "python": platform.python_version(),
    }


def line(hardware: Hardware) -> str:
    """The same in one line, for the terminal."""
    found = describe(hardware)
    on = found["hardware"]
    return (
        f"{on['device']}, {on['processor']}, torch {found['torch']}, Python {found['python']}; "
        f"load {on['load']:.2f} on {on['cores']} cores"
    )


_LINUX = platform.system() == "Linux"


def _processor() -> str:
    """The processor's name. `platform.processor()` is empty on most Linux systems."""
    if _LINUX:
        for entry in Path("/proc/cpuinfo").read_text().splitlines():
            if entry.startswith("model name"):
                return entry.partition(":")[2].strip()
    return platform.processor() or platform.machine()
