"""Test error, energy and angles: what a report says beside the loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from opt_runner.datasets import normalise
from opt_runner.geometry import angles, hyperspherical_energy
from opt_runner.opt import OPT, merge
from opt_runner.records.result import ANGLE_BINS
from opt_runner.training.device import Device
from opt_runner.training.processes import Processes

_BATCH = 1000


@torch.no_grad()
def error_percent(
    opt: OPT, images: Tensor, labels: Tensor, device: Device, processes: Processes
) -> float:
    """Percent of `images` (N, C, H, W) uint8 that the merged, plain network gets wrong.

    Each process tries its part of them.
    """
    network = merge(opt).eval()
    wrong = torch.zeros((), dtype=torch.int64, device=labels.device)
    part = processes.part(len(labels))
    batches = torch.split(images[part], _BATCH), torch.split(labels[part], _BATCH)
    for batch, truth in zip(*batches, strict=True):
        x = normalise(batch, device.dtype).contiguous(memory_format=device.memory_format)
        with device.autocast():
            wrong += (network(x).argmax(-1) != truth).sum()
    processes.sum_(wrong)
    return 100 * int(wrong) / len(labels)


@dataclass
class Geometry:
    """What OPT is meant to keep."""

    energy: dict[str, float]
    angles: list[int]  # pairs of neurons of all layers by bin


@torch.no_grad()
def geometry(opt: OPT) -> Geometry:
    neurons = opt.neurons()
    energies = {name: hyperspherical_energy(V) for name, V in neurons.items()}
    every_angle = torch.cat([angles(V).flatten() for V in neurons.values()])
    return Geometry(
        energy={name: float(energy) for name, energy in energies.items()},
        angles=torch.histc(every_angle.cpu(), ANGLE_BINS, 0, torch.pi).long().tolist(),
    )
