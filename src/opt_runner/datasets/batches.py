"""Batches of training images that are on the device, or are read ahead from memory or a file."""

import numpy as np
import torch
from torch import Tensor

from opt_runner.datasets.ahead import Ahead
from opt_runner.datasets.augment import Augment
from opt_runner.datasets.stored import Stored
from opt_runner.errors import UserError
from opt_runner.transfer import send

# Batches that are ready or being read during a training step.
_AHEAD = 3


class Batches:
    """Shuffled, augmented, normalised batches by step number.

    images: uint8 (N, C, H, W); labels: int64 (N,), on the device that trains.
    streamed: the images are in memory or in a file. A thread reads the next batches and sends only
        them to the device, as bytes. False: all images are on the device. Batches are equal to the
        bit either way.
    part: (number, parts): the share of every batch that this process gets. (0, 1) is all of it.

    Each epoch takes every image once, in an order of its own, and drops a last partial batch. All
    randomness is a function of (seed, epoch), drawn on the CPU. So `batch` may be called for any
    step in any order, resuming needs no state, and a CPU and a GPU get the same batches.

    Raises UserError if a batch is larger than the data, if the padding is larger than the images,
    and if the parts are not equal.
    """

    def __init__(
        self,
        images: Tensor | Stored,
        labels: Tensor,
        batch_size: int,
        seed: int,
        augment: Augment | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        dtype: torch.dtype = torch.float32,
        part: tuple[int, int] = (0, 1),
        streamed: bool = False,
    ) -> None:
        if not 1 <= batch_size <= len(images):
            raise UserError(
                f"batch size {batch_size} does not suit {len(images)} training images: "
                f"1 to {len(images)} are allowed"
            )
        number, parts = part
        if batch_size % parts:
            raise UserError(
                f"batch_size={batch_size} cannot be shared by {parts} processes: it must be a "
                f"multiple of {parts}"
            )
        size = batch_size // parts
        self._part = slice(number * size, (number + 1) * size)
        self.size = images.shape[2], images.shape[3]
        self.augment = augment if augment is not None and augment.enabled else None
        if self.augment is not None:
            self.augment.check(self.size)
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.seed = seed
        self.memory_format = memory_format
        self.dtype = dtype
        self._epoch = -1
        self._drawn: list[Tensor] = []
        self._ahead = Ahead(self._read, _AHEAD) if streamed else None

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images) // self.batch_size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return batch `step`, counted from 0 through all epochs: x (B, C, H, W), y int64 (B,).

        Of a `part` these are its B images. Raises UserError where they cannot be read.
        """
        if self._ahead is None:
            index, *crop = self._of_step(step, self.labels.device)
            images = self.images[index].to(self.labels.device)
        else:
            ahead = self._ahead.take(step)
            images, index, *crop = (send(tensor, self.labels.device) for tensor in ahead)
        if self.augment is not None:
            images = self.augment.apply(images, *crop)
        x = normalise(images.contiguous(memory_format=self.memory_format), self.dtype)
        return x, self.labels[index]

    def close(self) -> None:
        """End the thread that reads ahead. Call it after the last batch."""
        if self._ahead is not None:
            self._ahead.close()

    def _read(self, step: int) -> list[Tensor]:
        """Return the images of a batch as they are, their indices, crops and flips, on the CPU."""
        index, *crop = self._of_step(step, torch.device("cpu"))
        if isinstance(self.images, Stored):
            return [self.images[index].read(pin_memory=self.labels.is_cuda), index, *crop]
        # Not torch's indexing, which would start as many threads again as the training has.
        return [torch.from_numpy(self.images.numpy().take(index.numpy(), axis=0)), index, *crop]

    def _of_step(self, step: int, device: torch.device) -> list[Tensor]:
        """Return the indices of a batch's images and, with augmentation, crops and flips."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._drawn = [send(drawn, device) for drawn in self._draw(epoch)]
            self._epoch = epoch
        here = slice(position * self.batch_size, (position + 1) * self.batch_size)
        return [drawn[here][self._part] for drawn in self._drawn]

    def _draw(self, epoch: int) -> list[Tensor]:
        """Return the order of an epoch's images and, with augmentation, crops and flips."""
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        count = len(self.images)
        drawn = [torch.randperm(count, generator=generator)]
        if self.augment is not None:
            drawn += self.augment.draw(count, self.size, generator)
        return drawn


def mix(seed: int, epoch: int) -> int:
    """Hash two seeds into one with numpy's SeedSequence: neighbours give unrelated streams.

    32 bits, as PyTorch's generator for the CPU drops the others.
    """
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def normalise(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return (x - 127.5) / 128 in `dtype`, of any shape and in the same memory format."""
    return (images.to(dtype) - 127.5) / 128
