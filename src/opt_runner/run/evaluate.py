"""Errors, calibration and geometry: what a report says beside the loss."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opt_runner.datasets import Stored, normalise, pieces
from opt_runner.geometry import LayerGeometry, layer_geometry
from opt_runner.opt import OPT, merge
from opt_runner.records.result import ANGLE_BINS
from opt_runner.run.device import Device
from opt_runner.run.processes import Processes

# Of images of 64 x 64 and smaller; of larger ones as many as have so many pixels.
_MOST_IMAGES = 1000
_MOST_PIXELS = _MOST_IMAGES * 64 * 64
_BINS = 15


@dataclass(frozen=True)
class Quality:
    """How well a network classifies labelled images.

    error: percent that it gets wrong. nll: the mean negative log-likelihood of the labels.
    calibration_error: the expected calibration error, in percent: images fall by confidence (the
    largest probability) into 15 bins of equal width, and the mean over images of |share that is
    right - mean confidence| of their bins is taken. Source: Guo et al., "On Calibration of Modern
    Neural Networks" (ICML 2017).
    """

    error: float
    nll: float
    calibration_error: float


class Tally:
    """What a Quality is counted from, batch by batch."""

    def __init__(self, device: torch.device) -> None:
        # Of each bin: images, those that are right, the sum of confidences.
        self.bins = torch.zeros(3, _BINS, dtype=torch.float64, device=device)
        self.nll = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        log_p = logits.double().log_softmax(-1)
        self.nll -= log_p.gather(-1, labels[:, None]).sum()
        confidence = log_p.amax(-1).exp()
        right = (logits.argmax(-1) == labels).double()
        of_bin = (confidence * _BINS).long().clamp(0, _BINS - 1)  # NaN is a negative number
        for row, values in zip(self.bins, (torch.ones_like(right), right, confidence), strict=True):
            row.index_add_(0, of_bin, values)

    def quality(self, images: int) -> Quality:
        count, right, confidence = self.bins
        return Quality(
            error=float(100 * (count - right).sum() / images),
            nll=float(self.nll) / images,
            calibration_error=float(100 * (right - confidence).abs().sum() / images),
        )


@torch.no_grad()
def quality(
    opt: OPT, images: Tensor | Stored, labels: Tensor, device: Device, processes: Processes
) -> Quality:
    """Of the merged, plain network, on images (N, C, H, W) uint8, which may lie elsewhere than the
    labels.

    Each process tries its part of them.
    """
    network = merge(opt).eval()
    part = processes.part(len(labels))
    tally = Tally(labels.device)
    for logits, truth in outputs(network, images[part], labels[part], device):
        tally.add(logits, truth)
    processes.sum_(tally.bins)
    processes.sum_(tally.nll)
    return tally.quality(len(labels))


def outputs(
    network: nn.Module, images: Tensor | Stored, labels: Tensor, device: Device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (B, classes) and labels (B,) of images (N, C, H, W) uint8, batch by batch."""
    pixels = images.shape[2] * images.shape[3]
    size = max(1, min(_MOST_IMAGES, _MOST_PIXELS // pixels))
    for number, batch in enumerate(pieces(images, size)):
        truth = labels[number * size : (number + 1) * size]
        x = normalise(batch.to(labels.device), device.dtype).contiguous(
            memory_format=device.memory_format
        )
        with device.autocast():
            logits = network(x)
        yield logits, truth


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
