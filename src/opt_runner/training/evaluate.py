"""Test error and geometry: what a report says beside the loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from opt_runner.datasets import normalise
from opt_runner.geometry import LayerGeometry, layer_geometry
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
    """What OPT is meant to keep. The properties are {layer: value}, as records keep it."""

    layers: dict[str, LayerGeometry]

    @property
    def energy(self) -> dict[str, float]:
        """E_1."""
        return {name: layer.energy[1] for name, layer in self.layers.items()}

    @property
    def energy_excess(self) -> dict[str, dict[str, float]]:
        """That of E_0, E_1 and E_2, under "0", "1" and "2"."""
        return {
            name: {str(s): excess for s, excess in layer.energy_excess.items()}
            for name, layer in self.layers.items()
        }

    @property
    def half_space_excess(self) -> dict[str, float]:
        return {name: layer.half_space_excess for name, layer in self.layers.items()}

    @property
    def largest_cosine(self) -> dict[str, float]:
        return {name: layer.largest_cosine for name, layer in self.layers.items()}

    @property
    def angles(self) -> list[int]:
        """Pairs of neurons of all layers by bin, see ANGLE_BINS."""
        every_layer = (layer.angles for layer in self.layers.values())
        return [sum(of_bin) for of_bin in zip(*every_layer, strict=True)]


@torch.no_grad()
def geometry(opt: OPT) -> Geometry:
    return Geometry({name: layer_geometry(V, ANGLE_BINS) for name, V in opt.neurons().items()})
