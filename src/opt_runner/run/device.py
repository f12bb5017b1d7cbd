"""Device, precision, threads and memory layout of a run."""

import os
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from opt_runner.config.schema import Hardware
from opt_runner.errors import UserError
from opt_runner.machine import available_cores, threads_of_environment
from opt_runner.run import process
from opt_runner.run.processes import ALONE, Processes

_TORCHS_THREADS = torch.get_num_threads()


def default_threads() -> int:
    """Return the number of threads of a run without `hardware.threads`, alone or in a sweep.

    It is OMP_NUM_THREADS if that is set, else PyTorch's default, one thread for each physical core,
    but at most the number of cores that this process may use.
    """
    return threads_of_environment() or min(_TORCHS_THREADS, available_cores())


@dataclass(frozen=True)
class Device:
    """The device of a run, made from the config's `hardware`.

    dtype: of weights, rotations, data and loss; float32 also if the network runs in bfloat16.
    """

    torch_device: torch.device
    dtype: torch.dtype
    bfloat16: bool
    memory_format: torch.memory_format
    compile: bool

    @classmethod
    def of(cls, options: Hardware, processes: Processes = ALONE) -> Self:
        """Return the device, and set this process's threads, memory use and determinism.

        Raises UserError if the device does not exist.
        """
        torch.set_num_threads(options.threads or default_threads())
        found = find_device(options, processes)
        if options.reuse_memory and found.type == "cpu":
            process.keep_freed_memory()
        if found.type == "cuda":
            # Same seed, same result to the bit: cuBLAS reads this when it starts.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
            if processes.several:  # NCCL uses the current device
                torch.cuda.set_device(found)
        return cls(
            torch_device=found,
            dtype=torch.float64 if options.precision == "float64" else torch.float32,
            bfloat16=options.precision == "bfloat16",
            memory_format=torch.channels_last if options.channels_last else torch.contiguous_format,
            compile=options.compile,
        )

    @property
    def name(self) -> str:
        if self.torch_device.type == "cuda":
            return torch.cuda.get_device_name(self.torch_device)
        return f"cpu ({torch.get_num_threads()} threads)"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.torch_device.type, torch.bfloat16, enabled=self.bfloat16)

    def place(self, network: nn.Module) -> nn.Module:
        return network.to(self.torch_device, self.dtype).to(memory_format=self.memory_format)


def find_device(options: Hardware, processes: Processes = ALONE) -> torch.device:
    """Return the device that the config names; each process of a run gets a GPU of its own.

    Raises UserError if it does not exist.
    """
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(name)
    if chosen.type != "cuda":
        return chosen
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not processes.several:
        if (chosen.index or 0) >= found:
            raise UserError(
                f"hardware.device={name} does not exist: {found} CUDA devices were found; "
                "use hardware=auto or hardware=cpu"
            )
        return chosen
    if chosen.index is not None:
        raise UserError(
            f"hardware.device={options.device} names one GPU for {processes.count} processes: use "
            "hardware.device=cuda, which gives each its own"
        )
    # Slurm may show each task only its own GPU.
    index = 0 if found == 1 and options.processes == "slurm" else processes.local_rank
    if index >= found:
        raise UserError(
            f"each process of a run needs a GPU of its own: this machine has {index + 1} processes "
            f"or more and {found} CUDA devices; start one for each, or use hardware=cpu"
        )
    return torch.device("cuda", index)
