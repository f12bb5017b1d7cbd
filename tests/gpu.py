"""The GPU that tests run on: a real one where there is one, else a simulated one."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import pytest
import torch

from opt_runner.config.schema import Hardware
from opt_runner.run import device, run
from opt_runner.run.processes import ALONE, Processes
from tests import simulated_gpu


class Gpu(Protocol):
    device: torch.device

    def no_waits(self) -> AbstractContextManager[None]:
        """While it is entered whatever waits for the GPU raises RuntimeError."""


class _Cuda:
    device = torch.device("cuda", 0)

    @contextmanager
    def no_waits(self) -> Iterator[None]:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@contextmanager
def found_or_simulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """What `hardware=cuda` runs on within the block."""
    if torch.cuda.is_available():
        yield _Cuda()
        return
    if not simulated_gpu.available():
        pytest.skip("there is no GPU, and this PyTorch cannot simulate one")
    simulated = simulated_gpu.SimulatedGpu()
    find_device = device.find_device

    def find(options: Hardware, processes: Processes = ALONE) -> torch.device:
        return simulated.device if options.device == "cuda" else find_device(options, processes)

    for module in (device, run):
        monkeypatch.setattr(module, "find_device", find)
    with simulated:
        yield simulated
