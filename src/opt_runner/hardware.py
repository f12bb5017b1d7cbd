"""Device, precision, threads and memory layout of a cell."""

import os
from dataclasses import dataclass

import torch
from torch import nn

from opt_runner import config, process
from opt_runner.errors import UserError

_DEFAULT_THREADS = torch.get_num_threads()


@dataclass(frozen=True)
class Hardware:
    """What `auto` came to. Rotations are float32 whatever the precision of the network."""

    device: torch.device
    precision: torch.dtype
    memory_format: torch.memory_format
    compile: bool

    @property
    def name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"cpu ({torch.get_num_threads()} threads)"

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, self.precision, enabled=self.precision != torch.float32
        )

    def place(self, network: nn.Module) -> nn.Module:
        return network.to(self.device).to(memory_format=self.memory_format)


def device(options: config.Hardware) -> torch.device:
    """The device that the config names. Raises UserError where it is not there."""
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(name)
    if chosen.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= found:
            raise UserError(
                f"hardware.device={name} is not there: {found} CUDA devices were found; "
                "use hardware=auto or hardware=cpu"
            )
    return chosen


def set_up(options: config.Hardware) -> Hardware:
    """Set threads and determinism for the cell and resolve `auto`."""
    torch.set_num_threads(options.threads or _DEFAULT_THREADS)
    chosen = device(options)
    if options.reuse_memory and chosen.type == "cpu":
        process.keep_freed_memory()
    if chosen.type == "cuda":
        # Same seed, same result to the bit: cuBLAS reads this when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    return Hardware(
        device=chosen,
        precision=getattr(torch, options.precision),
        memory_format=torch.channels_last if options.channels_last else torch.contiguous_format,
        compile=options.compile,
    )
