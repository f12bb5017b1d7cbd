"""The evaluation of a network: errors, calibration and geometry."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from opt_runner.datasets import Data, Samples, pieces
from opt_runner.datasets.batches import laid_out
from opt_runner.errors import UserError
from opt_runner.geometry import Geometry
from opt_runner.opt import merge
from opt_runner.records.result import Result
from opt_runner.run.device import Device
from opt_runner.run.processes import ALONE, Processes
from opt_runner.run.set_up import Setup


class Diverged(Exception):
    """A loss, a weight or an output is NaN or infinite."""


@torch.no_grad()
def numbers(
    network: nn.Module,
    data: Data,
    samples: Samples,
    device: Device,
    processes: Processes = ALONE,
    see: Callable[[Tensor, Tensor], None] = lambda outputs, targets: None,
) -> dict[str, float]:
    """Return the numbers of a plain network on samples of the data: `error`, and others.

    Inputs and targets may be on different devices. Each process evaluates its part.
    see: called with the outputs and the targets of each batch.
    Raises Diverged if a number is not finite.
    """
    samples = samples[processes.part(len(samples))]
    tally = data.tally(samples.targets.device)
    size = data.evaluated_at_once
    for number, batch in enumerate(pieces(samples.inputs, size)):
        targets = samples.targets[number * size : (number + 1) * size]
        inputs = data.network_input(batch.to(targets.device), device.dtype)
        with device.autocast():
            outputs = network(laid_out(inputs, device.memory_format))
        tally.add(outputs, targets)
        see(outputs, targets)
    for total in tally.sums:
        processes.sum_(total)
    found = tally.numbers()
    # log_softmax of finite logits is finite in float64; argmax of NaN would be class 0.
    if not all(map(math.isfinite, found.values())):
        raise Diverged("the network's outputs are not finite")
    return found


@torch.no_grad()
def evaluate(setup: Setup, result: Result, last: bool) -> dict[str, Any]:
    """Evaluate the network as it is, fill `result`, and return the row of metrics.

    last: the run ends here. It also ends if `result.stopped` is set afterwards.

    Raises Diverged if a weight or an output is not finite, and UserError if a method's measure has
    the name of a value that every row has.
    """
    setup.opt.eval()
    network = merge(setup.opt).eval()
    if not all(bool(p.isfinite().all()) for p in network.parameters()):
        raise Diverged(f"weights are not finite after step {result.steps}")
    errors = (_test if setup.validation is None else _validate)(setup, network, result, last)
    if setup.average is not None:
        errors |= _average(setup, setup.average.network().eval(), result, errors)
    if last or result.stopped:
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
    found = _on(setup, network, setup.data.test)
    error, best = found["error"], result.best_test_error
    result.best_test_error = error if best is None else min(error, best)
    return _note(found, result)


def _validate(setup: Setup, network: nn.Module, result: Result, last: bool) -> dict[str, float]:
    """Return the errors with validation; the test error is in the row of the last step only.

    Only `result` holds the test error of the best step so far: a number is cheaper to keep than the
    weights of that step.
    """
    assert setup.validation is not None
    error = _on(setup, network, setup.validation)["error"]
    best = result.best_validation_error
    improved = best is None or error < best
    result.validation_error = error
    if improved:
        result.best_validation_error = error
        result.best_step = result.steps
        result.test_error_at_best = None
    result.stopped = None if last else _out_of_patience(setup, result)
    last = last or result.stopped is not None
    when = setup.config.evaluate.test
    if when == "never" or not (last or (improved and when == "every")):
        return {"validation_error": error}
    tested = _on(setup, network, setup.data.test)
    if improved:
        result.test_error_at_best = tested["error"]
    return {"validation_error": error} | (_note(tested, result) if last else {})


def _out_of_patience(setup: Setup, result: Result) -> str | None:
    """Return the reason to stop, if `evaluate.patience` evaluations had no lower error."""
    patience, best = setup.config.evaluate.patience, result.best_step
    assert best is not None
    if patience is None or result.steps - best < patience * setup.evaluate_every:
        return None
    return (
        f"{patience} evaluations without a lower validation {result.error_name} than after step "
        f"{best}"
    )


def _average(
    setup: Setup, network: nn.Module, result: Result, errors: dict[str, float]
) -> dict[str, float]:
    """Return the errors of the averaged weights, on the samples that the network was tested on."""
    halves = {"test_error": setup.data.test, "validation_error": setup.validation}
    found = {
        f"ema_{key}": _on(setup, network, samples)["error"]
        for key, samples in halves.items()
        if key in errors and samples is not None
    }
    if "ema_test_error" in found:
        result.tested["ema_error"] = found["ema_test_error"]
    return found


def _on(setup: Setup, network: nn.Module, samples: Samples) -> dict[str, float]:
    return numbers(network, setup.data, samples, setup.device, setup.processes)


def _note(tested: dict[str, float], result: Result) -> dict[str, float]:
    result.test_error = tested["error"]
    result.tested = {name: value for name, value in tested.items() if name != "error"}
    return {"test_error": result.test_error}


def _train_error(setup: Setup, network: nn.Module) -> float:
    """Return the error on as many unaugmented training samples as there are test samples."""
    train = setup.data.train
    count = min(len(train), len(setup.data.test))
    # Folders are sorted by class, so the samples are chosen evenly spaced.
    chosen = torch.arange(count, device=train.inputs.device) * len(train) // count
    targets = train.targets[chosen.to(train.targets.device)]
    return _on(setup, network, Samples(train.inputs[chosen], targets))["error"]
