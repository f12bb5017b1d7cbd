"""The place of a run's inputs: on the device, or on the host and streamed in batches."""

from dataclasses import dataclass
from typing import Literal, Self

import torch

from opt_runner.datasets import Data, Samples
from opt_runner.errors import UserError, gib
from opt_runner.machine import free_memory

# The rest of the memory is for training and for other processes.
_COMFORTABLE = 0.5


@dataclass(frozen=True)
class Placement:
    """The place of the inputs.

    streamed: batches are read ahead; else all inputs are on the device. why: the reason, in a line.
    """

    streamed: bool
    why: str

    @classmethod
    def of(
        cls,
        wanted: Literal["auto", "device", "streamed"],
        data: Data,
        validation: Samples | None,
        device: torch.device,
    ) -> Self:
        """Return the place for `hardware.images`. Raises UserError if the device is too small."""
        stacks = [data.train.inputs, data.test.inputs]
        if validation is not None:
            stacks.append(validation.inputs)
        size = sum(inputs.shape.numel() * inputs.dtype.itemsize for inputs in stacks)
        if wanted == "streamed":
            return cls(True, f"{gib(size)} of {data.samples} are streamed, as hardware.images says")
        there = all(isinstance(i, torch.Tensor) and i.device.type == device.type for i in stacks)
        free = None if there else free_memory(device)
        if free is None:
            return cls(False, f"{gib(size)} of {data.samples} are on {device}")
        room = f"{device} has {gib(free)} free"
        if size <= (free if wanted == "device" else _COMFORTABLE * free):
            return cls(False, f"{gib(size)} of {data.samples} are on {device}; {room} before")
        if wanted == "device":
            raise UserError(
                f"hardware.images=device: the {data.samples} take {gib(size)}; {room}: use "
                "hardware.images=streamed, which reads them as they are needed"
            )
        return cls(
            True, f"{gib(size)} of {data.samples} are streamed; {room}, of which they may take half"
        )
