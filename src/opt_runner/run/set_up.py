"""The set-up of a run: data, network, method and optimizer on their device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor
from torch.func import functional_call

from opt_runner.config import components
from opt_runner.config.schema import Config
from opt_runner.datasets import Augment, Batches, Data, Images, Mix, Samples
from opt_runner.datasets.augmentation import Augmentation, check_on
from opt_runner.datasets.stored import read
from opt_runner.errors import UserError, gib
from opt_runner.machine import free_memory
from opt_runner.opt import OPT
from opt_runner.records import weights
from opt_runner.run.average import Average
from opt_runner.run.build import (
    form_of,
    load_start,
    network_of,
    opt_of,
    optimizer_of,
    without_effect,
)
from opt_runner.run.device import Device
from opt_runner.run.processes import ALONE, Processes
from opt_runner.run.size import check_fits
from opt_runner.run.whole_batch import make_global

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


@dataclass(frozen=True)
class Setup:
    """All parts of a run, made from its config and ready to train.

    data: the training and test samples. validation: samples held back from training, or None.
    steps: the budget. remarks: what the user should know of the run, a line each.
    average: of the weights, if it is wanted.
    """

    config: Config
    processes: Processes
    device: Device
    data: Data
    placement: Placement
    batches: Batches
    opt: OPT
    optimizer: torch.optim.Optimizer
    steps: int
    validation: Samples | None
    average: Average | None = None
    remarks: Sequence[str] = ()

    @property
    def evaluate_every(self) -> int:
        epoch = self.batches.steps_per_epoch
        return self.config.evaluate.every or max(epoch, self.steps // 50)

    @property
    def hardware(self) -> str:
        several = f", {self.processes.count} processes" if self.processes.several else ""
        return f"{self.device.name}{several}"

    def checkpoint_bytes(self) -> int:
        """Return the size of a checkpoint, once the optimizer has made a step."""
        state = [value for one in self.optimizer.state.values() for value in one.values()]
        tensors = [t for t in (*self.opt.state_dict().values(), *state) if isinstance(t, Tensor)]
        return sum(tensor.nbytes for tensor in tensors)


def set_up(config: Config, data: Data, processes: Processes = ALONE) -> Setup:
    """Make all parts of a run; this sets the process's threads and torch's seed.

    Raises UserError if device, data, batch size, processes and network do not fit.
    """
    device = Device.of(config.hardware, processes)
    data = data.formed(form_of(config.dataset, config.model))
    validation = None
    if config.dataset.validation:
        data, validation = data.hold_back(config.dataset.validation, config.dataset.validation_seed)
    if config.dataset.share < 1:
        data = data.part(config.dataset.share, config.seed)
    if config.dataset.label_noise:
        data = data.with_label_noise(config.dataset.label_noise, config.seed)
    _check_options(config, data)
    placement = Placement.of(config.hardware.images, data, validation, device.torch_device)
    data = data.to(device.torch_device, placement.streamed)
    if validation is not None:
        validation = validation.to(device.torch_device, placement.streamed)
    batches = Batches(
        data.train.inputs,
        data.train.targets,
        config.batch_size or len(data.train),
        config.seed,
        _augment(config, data),
        memory_format=device.memory_format,
        dtype=device.dtype,
        part=(processes.rank, processes.count),
        streamed=placement.streamed,
        network_input=data.network_input,
        mix=_mix(config, data),
    )
    each = batches.batch_size // processes.count
    if config.optimizer.accumulate > each:
        raise UserError(
            f"optimizer.accumulate={config.optimizer.accumulate} makes more parts than a process "
            f"has {data.samples} of a batch ({each})"
        )
    if batches.mix and processes.several and each % 2:
        raise UserError(
            f"augment.mixup and augment.cutmix mix pairs, and each of {processes.count} processes "
            f"has {each} of batch_size={batches.batch_size}: an even number is needed"
        )
    steps = config.budget.in_steps(batches.steps_per_epoch)
    check_fits(config, data, device.torch_device)
    weights.check_gives(data.gives)
    torch.manual_seed(config.seed)
    network = network_of(config, data.gives, steps)
    remarks = load_start(network, config, data.gives, steps)
    opt = opt_of(config, device.place(network), steps)
    if device.compile:
        # Without this, dynamo stops compiling after eight runs in one process.
        torch.compiler.reset()
        opt.compile()
    _try_shapes(opt, data, device)
    if each // config.optimizer.accumulate == 1 and not processes.several:
        _try_one(opt, data, device, config.optimizer.accumulate)
    if processes.several:
        make_global(opt.network, processes)
    optimizer = optimizer_of(config, opt)
    return Setup(
        config,
        processes,
        device,
        data,
        placement,
        batches,
        opt,
        optimizer,
        steps,
        validation,
        Average(opt, config.evaluate.ema) if config.evaluate.ema else None,
        [*([placement.why] if placement.streamed else []), *remarks, *without_effect(config)],
    )


def _check_options(config: Config, data: Data) -> None:
    """Raise UserError if the config asks for what these data cannot have."""
    where = f"dataset={config.dataset.name}"
    if not data.output_classes and (config.loss.label_smoothing or config.loss.softmax_floor):
        raise UserError(
            f"{where} has targets that are no classes: set loss.label_smoothing=0 "
            "loss.softmax_floor=0, best in its YAML file"
        )
    if config.augment.enabled and not isinstance(data, Images):
        raise UserError(
            f"{where} has no images to augment: set augment.enabled=false, best in its YAML file"
        )


def _augment(config: Config, data: Data) -> Augment | None:
    chosen = config.augment
    if not isinstance(data, Images) or not chosen.enabled:
        return None
    then = None
    if chosen.then:
        then = components.build(chosen.then, "augment.then", Augmentation)
        shape = (min(2, len(data.train)), *data.train.inputs.shape[1:])
        images = torch.zeros(shape, dtype=torch.uint8, device=data.train.targets.device)
        check_on(then, images, "augment.then")
    return Augment(**chosen.model_dump(exclude={"enabled", "then", "mixup", "cutmix"}), then=then)


def _mix(config: Config, data: Data) -> Mix | None:
    chosen = config.augment
    if not isinstance(data, Images) or not chosen.enabled or not (chosen.mixup or chosen.cutmix):
        return None
    return Mix(chosen.mixup, chosen.cutmix, data.num_classes)


def _example(data: Data, device: Device, count: int) -> Tensor:
    """Return an input of the network for the first samples."""
    inputs = read(data.train.inputs[:count]).to(device.torch_device)
    return data.network_input(inputs, device.dtype)


@torch.no_grad()
def _try_one(opt: OPT, data: Data, device: Device, parts: int) -> None:
    """Raise UserError if the network cannot train on one sample, as a BatchNorm cannot."""
    x = _example(data, device, 1)
    buffers = {name: buffer.clone() for name, buffer in opt.network.named_buffers()}
    with torch.random.fork_rng([device.torch_device] if x.is_cuda else []):
        try:
            functional_call(opt.network, buffers, (x,), tie_weights=False)
        except ValueError as error:
            many = f"optimizer.accumulate={parts} leaves parts of 1 sample, which"
            cause = many if parts > 1 else "batch_size=1"
            raise UserError(f"{cause} is too small for the model: {error}") from error


@torch.no_grad()
def _try_shapes(opt: OPT, data: Data, device: Device) -> None:
    """Raise UserError if the network does not fit the data, before a traceback in training."""
    x = _example(data, device, 2)
    opt.network.eval()
    try:
        outputs = opt.network(x)
    except RuntimeError as error:
        hint = "; dataset.size=N resizes them" if isinstance(data, Images) else ""
        raise UserError(
            f"model: fails on {data.samples} of shape {tuple(x.shape[1:])}: {error}{hint}"
        ) from error
    expected = (len(x), *data.output_shape)
    if not isinstance(outputs, Tensor):
        raise UserError(
            f"model: gives a {type(outputs).__name__}, expected a tensor of shape {expected}"
        )
    if tuple(outputs.shape) != expected:
        classes = f" of {len(data.class_names)} classes" if data.class_names else ""
        raise UserError(
            f"model: gives an output of shape {tuple(outputs.shape)} for {len(x)} {data.samples}"
            f"{classes}, expected {expected}"
        )
    opt.network.train()
