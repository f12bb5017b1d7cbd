"""The evaluation of a network: errors, calibration and geometry."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opt_runner.datasets import Stored, normalise, pieces
from opt_runner.errors import UserError
from opt_runner.geometry import Geometry
from opt_runner.opt import merge
from opt_runner.records.result import Result
from opt_runner.run.device import Device
from opt_runner.run.processes import Processes
from opt_runner.run.set_up import Setup

# The images of a batch, and the pixels, as of 1,000 images of 64 x 64; the lower limit counts.
_MOST_IMAGES = 1000
_MOST_PIXELS = _MOST_IMAGES * 64 * 64
_BINS = 15


class Diverged(Exception):
    """A loss, a weight or an output is NaN or infinite."""


@dataclass(frozen=True)
class Quality:
    """The quality of a network on labelled images.

    error: the percentage of wrong answers. nll: the mean negative log-likelihood of the labels.
    calibration_error: the expected calibration error, in percent. Images are put by confidence (the
    largest probability) into 15 bins of equal width; it is the mean over images of |share of right
    answers - mean confidence| in their bins. Source: Guo et al., "On Calibration of Modern
    Neural Networks" (ICML 2017).
    """

    error: float
    nll: float
    calibration_error: float


class Tally:
    """Sums over batches, from which a Quality is computed."""

    def __init__(self, device: torch.device) -> None:
        # For each bin: images, right answers, the sum of confidences.
        self.bins = torch.zeros(3, _BINS, dtype=torch.float64, device=device)
        self.nll = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count logits (B, classes) against labels (B,)."""
        log_p = logits.double().log_softmax(-1)
        self.nll -= log_p.gather(-1, labels[:, None]).sum()
        confidence = log_p.amax(-1).exp()
        right = (logits.argmax(-1) == labels).double()
        of_bin = (confidence * _BINS).long().clamp(0, _BINS - 1)  # NaN is negative here
        for row, values in zip(self.bins, (torch.ones_like(right), right, confidence), strict=True):
            row.index_add_(0, of_bin, values)

    def quality(self, images: int) -> Quality:
        """Return the quality on so many images. Raises Diverged if an output is not finite."""
        # log_softmax of finite logits is finite in float64. argmax of NaN would be class 0.
        if not torch.isfinite(self.nll):
            raise Diverged("the network's outputs are not finite")
        count, right, confidence = self.bins
        return Quality(
            error=float(100 * (count - right).sum() / images),
            nll=float(self.nll) / images,
            calibration_error=float(100 * (right - confidence).abs().sum() / images),
        )


@torch.no_grad()
def quality(
    network: nn.Module,
    images: Tensor | Stored,
    labels: Tensor,
    device: Device,
    processes: Processes,
) -> Quality:
    """Return the quality of a plain network on images (N, C, H, W) uint8.

    Images and labels may be on different devices. Each process evaluates its part.
    """
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
    """Yield logits (B, classes) and labels (B,) of images (N, C, H, W) uint8, batch by batch."""
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


@torch.no_grad()
def evaluate(setup: Setup, result: Result, last: bool) -> dict[str, Any]:
    """Evaluate the network as it is, fill `result`, and return the row of metrics.

    Raises Diverged if a weight or an output is not finite, and UserError if a method's measure has
    the name of a value that every row has.
    """
    setup.opt.eval()
    network = merge(setup.opt).eval()
    if not all(bool(p.isfinite().all()) for p in network.parameters()):
        raise Diverged(f"weights are not finite after step {result.steps}")
    errors = (_test if setup.validation is None else _validate)(setup, network, result, last)
    if last:
        errors["train_error"] = result.train_error = _train_error(setup, network)
    measured: dict[str, float | None] = dict(setup.opt.measure())
    geometry = Geometry.of(setup.opt.neurons())
    setup.opt.train()
    result.start, result.end = result.start or geometry, geometry
    result.orthogonality_error = measured.pop("orthogonality_error", None)
    result.measured = measured
    row = {**errors, **asdict(geometry), "orthogonality_error": result.orthogonality_error}
    del row["angles"]
    if clash := sorted(measured.keys() & {*row, *Result.__dataclass_fields__}):
        raise UserError(
            f"{type(setup.opt.method).__name__}.measure gives {clash[0]!r}, a value that every run "
            "has: give it another name"
        )
    return row | measured


def _test(setup: Setup, network: nn.Module, result: Result, last: bool) -> dict[str, float]:
    when = setup.config.evaluate.test
    if when == "never" or (when == "last" and not last):
        return {}
    found = _on_test_images(setup, network)
    best = result.best_test_error
    result.best_test_error = found.error if best is None else min(found.error, best)
    return _note(found, result)


def _validate(setup: Setup, network: nn.Module, result: Result, last: bool) -> dict[str, float]:
    """Return the errors with validation; the test error is in the row of the last step only.

    Only `result` holds the test error of the best step so far: a number is cheaper to keep than the
    weights of that step.
    """
    assert setup.validation is not None
    images, labels = setup.validation.images, setup.validation.labels
    error = quality(network, images, labels, setup.device, setup.processes).error
    best = result.best_validation_error
    improved = best is None or error < best
    result.validation_error = error
    if improved:
        result.best_validation_error = error
        result.best_step = result.steps
        result.test_error_at_best = None
    when = setup.config.evaluate.test
    if when == "never" or not (last or (improved and when == "every")):
        return {"validation_error": error}
    tested = _on_test_images(setup, network)
    if improved:
        result.test_error_at_best = tested.error
    return {"validation_error": error} | (_note(tested, result) if last else {})


def _on_test_images(setup: Setup, network: nn.Module) -> Quality:
    images, labels = setup.data.test_images, setup.data.test_labels
    return quality(network, images, labels, setup.device, setup.processes)


def _note(tested: Quality, result: Result) -> dict[str, float]:
    result.test_error = tested.error
    result.test_nll = tested.nll
    result.calibration_error = tested.calibration_error
    return {"test_error": tested.error}


def _train_error(setup: Setup, network: nn.Module) -> float:
    """Return the training error on as many unaugmented training images as there are test images."""
    images, labels = setup.data.train_images, setup.data.train_labels
    count = min(len(labels), len(setup.data.test_labels))
    # Folders are sorted by class, so the images are chosen evenly spaced.
    chosen = torch.arange(count, device=images.device) * len(labels) // count
    truth = labels[chosen.to(labels.device)]
    return quality(network, images[chosen], truth, setup.device, setup.processes).error
