"""The set-up of a run: data, network, method and optimizer on their device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from opt_runner.config import components
from opt_runner.config.schema import Config
from opt_runner.datasets import (
    Augment,
    Batches,
    Images,
    Validation,
    hold_back,
    part,
    with_label_noise,
)
from opt_runner.datasets.augmentation import Augmentation, check_on
from opt_runner.errors import UserError
from opt_runner.networks.pretrained import load_weights
from opt_runner.opt import OPT
from opt_runner.records import weights
from opt_runner.run.batchnorm import make_global
from opt_runner.run.build import network_of, opt_of, optimizer_of
from opt_runner.run.device import Device
from opt_runner.run.placement import Placement
from opt_runner.run.processes import ALONE, Processes
from opt_runner.run.size import check_fits


@dataclass(frozen=True)
class Setup:
    """All parts of a run, made from its config and ready to train.

    data: the training and test images. validation: images held back from training, or None.
    steps: the budget.
    """

    config: Config
    processes: Processes
    device: Device
    data: Images
    placement: Placement
    batches: Batches
    opt: OPT
    optimizer: torch.optim.Optimizer
    steps: int
    validation: Validation | None

    @property
    def hardware(self) -> str:
        """Return the hardware of the run in words."""
        several = f", {self.processes.count} processes" if self.processes.several else ""
        return f"{self.device.name}{several}"

    def checkpoint_bytes(self) -> int:
        """Return the size of a checkpoint, once the optimizer has made a step."""
        state = [value for one in self.optimizer.state.values() for value in one.values()]
        tensors = [t for t in (*self.opt.state_dict().values(), *state) if isinstance(t, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def set_up(config: Config, images: Images, processes: Processes = ALONE) -> Setup:
    """Make all parts of a run; this sets the process's threads and torch's seed.

    Raises UserError if device, images, batch size, processes and network do not fit.
    """
    device = Device.of(config.hardware, processes)
    validation = None
    if config.dataset.validation:
        images, validation = hold_back(
            images, config.dataset.validation, config.dataset.validation_seed
        )
    if config.dataset.share < 1:
        images = part(images, config.dataset.share, config.seed)
    if config.dataset.label_noise:
        images = with_label_noise(images, config.dataset.label_noise, config.seed)
    placement = Placement.of(config.hardware.images, images, validation, device.torch_device)
    data = images.to(device.torch_device, placement.streamed)
    if validation is not None:
        validation = validation.to(device.torch_device, placement.streamed)
    batches = Batches(
        data.train_images,
        data.train_labels,
        config.batch_size,
        config.seed,
        _augment(config, data),
        memory_format=device.memory_format,
        dtype=device.dtype,
        part=(processes.rank, processes.count),
        streamed=placement.streamed,
    )
    if config.optimizer.accumulate > config.batch_size // processes.count:
        raise UserError(
            f"optimizer.accumulate={config.optimizer.accumulate} makes more parts than a process "
            f"has images of a batch ({config.batch_size // processes.count})"
        )
    steps = config.budget.in_steps(batches.steps_per_epoch)
    check_fits(config, data, device.torch_device)
    torch.manual_seed(config.seed)
    network = network_of(config, data, steps)
    if config.model.weights:
        weights.check(config.model.weights)
        load_weights(network, config.model.weights, config.model.weights_except)
    opt = opt_of(config, device.place(network), steps)
    if device.compile:
        # Without this, dynamo stops compiling after eight runs in one process.
        torch.compiler.reset()
        opt.compile()
    _try_shapes(opt, data, device)
    if config.batch_size == 1:
        _try_one_image(opt, data, device)
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
    )


def _augment(config: Config, data: Images) -> Augment:
    chosen = config.augment
    then = None
    if chosen.enabled and chosen.then:
        then = components.build(chosen.then, "augment.then", Augmentation)
        shape = (min(2, len(data.train_labels)), data.channels, *data.size)
        images = torch.zeros(shape, dtype=torch.uint8, device=data.train_labels.device)
        check_on(then, images, "augment.then")
    return Augment(**chosen.model_dump(exclude={"then"}), then=then)


@torch.no_grad()
def _try_one_image(opt: OPT, data: Images, device: Device) -> None:
    """Raise UserError if the network cannot train on one image, as with a BatchNorm of features."""
    x = torch.zeros((1, data.channels, *data.size), dtype=device.dtype, device=device.torch_device)
    buffers = {name: buffer.clone() for name, buffer in opt.network.named_buffers()}
    with torch.random.fork_rng([device.torch_device] if x.is_cuda else []):
        try:
            functional_call(opt.network, buffers, (x,))
        except ValueError as error:
            raise UserError(f"batch_size=1 is too small for the model: {error}") from error


@torch.no_grad()
def _try_shapes(opt: OPT, data: Images, device: Device) -> None:
    """Raise UserError if the network does not fit the images, before a traceback in training."""
    shape = (min(2, len(data.train_labels)), data.channels, *data.size)
    x = torch.zeros(shape, dtype=device.dtype, device=device.torch_device)
    opt.network.eval()
    try:
        logits = opt.network(x)
    except RuntimeError as error:
        raise UserError(f"model: fails on images of shape {shape[1:]}: {error}") from error
    if tuple(logits.shape) != (len(x), data.num_classes):
        raise UserError(
            f"model: gives an output of shape {tuple(logits.shape)} for {len(x)} images of "
            f"{data.num_classes} classes, expected {(len(x), data.num_classes)}"
        )
    opt.network.train()
