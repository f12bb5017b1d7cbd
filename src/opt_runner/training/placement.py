"""Where a run's images lie: on the device, or where they are, to be read a few batches ahead."""

from dataclasses import dataclass
from typing import Literal, Self

import torch

from opt_runner.datasets import Images, Validation
from opt_runner.errors import UserError
from opt_runner.training.size import free_memory

# The rest is for the network's training, and for a neighbour.
_COMFORTABLE = 0.5


@dataclass(frozen=True)
class Placement:
    """streamed: batches are read ahead; else all images are on the device. why: in a line."""

    streamed: bool
    why: str

    @classmethod
    def of(
        cls,
        wanted: Literal["auto", "device", "streamed"],
        data: Images,
        validation: Validation | None,
        device: torch.device,
    ) -> Self:
        """As `hardware.images` says. Raises UserError where they do not fit on the device."""
        stacks = [data.train_images, data.test_images]
        if validation is not None:
            stacks.append(validation.images)
        size = sum(images.shape.numel() for images in stacks)
        if wanted == "streamed":
            return cls(True, f"{_gib(size)} of images are streamed, as hardware.images says")
        there = all(isinstance(i, torch.Tensor) and i.device.type == device.type for i in stacks)
        free = None if there else free_memory(device)
        room = "" if free is None else f"; {device} has {_gib(free)} free"
        if wanted == "device" or free is None:
            if free is not None and size > free:
                raise UserError(
                    f"hardware.images=device: the images take {_gib(size)}{room}: use "
                    "hardware.images=streamed, which reads them as they are needed"
                )
            return cls(False, f"{_gib(size)} of images are on {device}{room}")
        if size <= _COMFORTABLE * free:
            return cls(False, f"{_gib(size)} of images are on {device}{room} before")
        return cls(True, f"{_gib(size)} of images are streamed{room}, of which they may take half")


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
