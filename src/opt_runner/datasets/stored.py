"""Images in a file, chosen by index and read on demand."""

import os
from copy import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opt_runner.errors import UserError
from opt_runner.files import readable

# Bytes that are read at a time on the way to a GPU.
_PIECE_BYTES = 2**26


class Stored:
    """A file of uint8 images (N, C, H, W), one after the other; none is in memory.

    Indexing by a slice, by indices or by a mask chooses images and reads nothing. `read` uses file
    positions, not a memory map: pages of a map count as memory of the process, and a failing disk
    under a map kills the process without a message.

    path: the file. It stays open, so replacing it has no effect here.
    offset: the bytes before the first image. shape: the shape of all images in the file.
    """

    dtype = torch.uint8
    device = torch.device("cpu")

    def __init__(self, path: Path, offset: int, shape: tuple[int, int, int, int]) -> None:
        self.path = path
        self._file = path.open("rb")
        self._offset = offset
        self._image = shape[1:]
        self._rows = torch.arange(shape[0])

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self._rows), *self._image))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, chosen: slice | Tensor) -> "Stored":
        other = copy(self)
        other._rows = self._rows[chosen]
        return other

    def read(self, pin_memory: bool = False) -> Tensor:
        """Return the images, on the CPU. Raises UserError if the file no longer holds them."""
        images = torch.empty(self.shape, dtype=torch.uint8, pin_memory=pin_memory)
        size = images[:1].numel()
        with readable(self.path):
            for image, row in zip(images.numpy(), self._rows.tolist(), strict=True):
                found = os.preadv(self._file.fileno(), [image], self._offset + row * size)
                if found != size:
                    raise UserError(
                        f"{self.path} was cut short since the start: run the command again, which "
                        "decodes the images anew"
                    )
        return images

    def to(self, device: torch.device | str) -> Tensor:
        """Return the images as a tensor on `device`, without a copy of all in the CPU's memory."""
        if torch.device(device).type == "cpu":
            return self._mapped()
        images = torch.empty(self.shape, dtype=torch.uint8, device=device)
        count = max(1, _PIECE_BYTES // images[:1].numel())
        for start in range(0, len(self), count):
            images[start : start + count] = self[start : start + count].read()
        return images

    def _mapped(self) -> Tensor:
        """Return a memory map of consecutive images, which processes share; read other images."""
        first, count = int(self._rows[0]), len(self)
        if not torch.equal(self._rows, torch.arange(first, first + count)):
            return self.read()
        size = self.shape[1:].numel()
        try:
            mapped = np.memmap(
                self._file, np.uint8, "c", self._offset + first * size, tuple(self.shape)
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} cannot be mapped: {error}") from error
        return torch.from_numpy(mapped)


def read(inputs: Tensor | Stored) -> Tensor:
    """Return inputs that are in memory or in a file as a tensor."""
    return inputs.read() if isinstance(inputs, Stored) else inputs
