"""Batches of training samples that are on the device, or are read ahead from memory or a file."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opt_runner.datasets.ahead import Ahead
from opt_runner.datasets.augment import Augment
from opt_runner.datasets.form import normalise
from opt_runner.datasets.mix import Mix
from opt_runner.datasets.stored import Stored
from opt_runner.errors import UserError
from opt_runner.transfer import send

# Batches that are ready or being read during a training step.
_AHEAD = 3


@dataclass(eq=False)
class Batches:
    """Shuffled batches by step number; images are augmented.

    inputs: (N, ...), such as images, uint8 (N, C, H, W); targets: (N, ...), on the device that
    trains. augment, mix: of images only. With mix, targets are probabilities (B, classes).
    network_input: makes the network's input from a batch of inputs.
    streamed: the inputs are in memory or in a file. A thread reads the next batches and sends only
        them to the device. False: all inputs are on the device. Batches are equal to the bit either
        way.
    part: (number, parts): the share of every batch that this process gets. (0, 1) is all of it.

    Each epoch takes every sample once, in an order of its own, and drops a last partial batch. All
    randomness is a function of (seed, epoch), drawn on the CPU. So `batch` may be called for any
    step in any order, resuming needs no state, and a CPU and a GPU get the same batches.

    Raises UserError if a batch is larger than the data, if the padding is larger than the images,
    and if the parts are not equal.
    """

    inputs: Tensor | Stored
    targets: Tensor
    batch_size: int
    seed: int
    augment: Augment | None = None
    memory_format: torch.memory_format = torch.contiguous_format
    dtype: torch.dtype = torch.float32
    part: tuple[int, int] = (0, 1)
    streamed: bool = False
    network_input: Callable[[Tensor, torch.dtype], Tensor] = normalise
    mix: Mix | None = None

    def __post_init__(self) -> None:
        count = len(self.inputs)
        if not 1 <= self.batch_size <= count:
            raise UserError(
                f"batch size {self.batch_size} does not suit {count} training samples: "
                f"1 to {count} are allowed"
            )
        number, parts = self.part
        if self.batch_size % parts:
            raise UserError(
                f"batch_size={self.batch_size} cannot be shared by {parts} processes: it must be a "
                f"multiple of {parts}"
            )
        size = self.batch_size // parts
        self._part = slice(number * size, (number + 1) * size)
        if self.augment is not None:
            self.size = self.inputs.shape[2], self.inputs.shape[3]
            self.augment.check(self.size)
        self._epoch = -1
        self._drawn: list[Tensor] = []
        self._ahead = Ahead(self._read, _AHEAD) if self.streamed else None

    @property
    def steps_per_epoch(self) -> int:
        return len(self.inputs) // self.batch_size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return batch `step`, counted from 0 through all epochs: x (B, ...), y (B, ...).

        Of a `part` these are its B samples. Raises UserError where they cannot be read.
        """
        if self._ahead is None:
            index, *drawn = self._of_step(step, self.targets.device)
            inputs = self.inputs[index].to(self.targets.device)
        else:
            ahead = self._ahead.take(step)
            inputs, index, *drawn = (send(tensor, self.targets.device) for tensor in ahead)
        mixing = drawn.pop() if self.mix is not None else None
        if self.augment is not None:
            inputs = self.augment.apply(inputs, *drawn)
        x = laid_out(self.network_input(inputs, self.dtype), self.memory_format)
        y = self.targets[index]
        return (x, y) if self.mix is None or mixing is None else self.mix.apply(x, y, mixing)

    def close(self) -> None:
        """End the thread that reads ahead. Call it after the last batch."""
        if self._ahead is not None:
            self._ahead.close()

    def _read(self, step: int) -> list[Tensor]:
        """Return the inputs of a batch as they are, their indices and draws, on the CPU."""
        index, *drawn = self._of_step(step, torch.device("cpu"))
        if isinstance(self.inputs, Stored):
            return [self.inputs[index].read(pin_memory=self.targets.is_cuda), index, *drawn]
        # Not torch's indexing, which would start as many threads again as the training has.
        return [torch.from_numpy(self.inputs.numpy().take(index.numpy(), axis=0)), index, *drawn]

    def _of_step(self, step: int, device: torch.device) -> list[Tensor]:
        """Return the indices of a batch's samples and the draws of augmentation and mix."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._drawn = [send(drawn, device) for drawn in self._draw(epoch)]
            self._epoch = epoch
        here = slice(position * self.batch_size, (position + 1) * self.batch_size)
        return [drawn[here][self._part] for drawn in self._drawn]

    def _draw(self, epoch: int) -> list[Tensor]:
        """Return the order of an epoch's samples and the draws of augmentation and mix."""
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        count = len(self.inputs)
        drawn = [torch.randperm(count, generator=generator)]
        if self.augment is not None:
            drawn += self.augment.draw(count, self.size, generator)
        if self.mix is not None:
            drawn.append(self.mix.draw(count, generator))
        return drawn


def laid_out(inputs: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Return images in the memory format, and other inputs as they are."""
    if inputs.dim() != 4:
        return inputs
    return inputs.contiguous(memory_format=memory_format)


def mix(seed: int, epoch: int) -> int:
    """Hash two seeds into one with numpy's SeedSequence: neighbours give unrelated streams.

    32 bits, as PyTorch's generator for the CPU drops the others.
    """
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
