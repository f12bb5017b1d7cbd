"""The training loop: the reference's recipe, read from top to bottom."""

import time
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from opt_runner.run.evaluate import Quality, geometry, quality
from opt_runner.run.interrupt import Interrupted, StopRequest
from opt_runner.run.processes import Poll
from opt_runner.run.set_up import Setup
from opt_runner.run.step import TrainingStep

_SHOW_SECONDS = 0.5


class Diverged(Exception):
    """The loss of a step was NaN or infinite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"loss is not finite at step {step}")
        self.step = step


class Pruned(Exception):
    """A search expects no good result of the run. Raised after saving."""


@dataclass
class Progress:
    """How far a run is: what a checkpoint keeps beside the weights, and a result reports."""

    step: int = 0
    seconds: float = 0.0  # of training, evaluation left out
    loss_sum: float = 0.0  # since the last loss record
    loss_count: int = 0
    train_loss: float | None = None
    train_error: float | None = None
    test_error: float | None = None
    test_nll: float | None = None
    calibration_error: float | None = None
    best_test_error: float | None = None
    validation_error: float | None = None
    best_validation_error: float | None = None
    best_step: int | None = None  # of the best validation error
    test_error_at_best: float | None = None
    energy_start: dict[str, float] | None = None
    energy_end: dict[str, float] | None = None
    energy_excess_start: dict[str, dict[str, float]] | None = None
    energy_excess_end: dict[str, dict[str, float]] | None = None
    half_space_excess_start: dict[str, float] | None = None
    half_space_excess_end: dict[str, float] | None = None
    largest_cosine_start: dict[str, float] | None = None
    largest_cosine_end: dict[str, float] | None = None
    angles_start: list[int] | None = None
    angles_end: list[int] | None = None
    measured: dict[str, float] | None = None


class Reporter(Protocol):
    """Where the loop's news go."""

    def report(self, row: dict[str, Any]) -> None:
        """A row of metrics."""

    def save(self, progress: dict[str, Any]) -> None:
        """Write a checkpoint."""

    def show(self, progress: Progress, loss: float) -> None:
        """For a person's eyes, twice a second: the loss of the last step."""

    def pruned(self) -> bool:
        """Whether to stop, as a search expects no good result. Asked after each evaluation."""
        ...


def train(setup: Setup, progress: Progress, reporter: Reporter, stop: StopRequest) -> None:
    """Train up to `setup.steps` from where `progress` is, which is kept up to date.

    All processes of a run come to the same end at the same step. Raises Diverged, and Interrupted
    or Pruned after saving a checkpoint.
    """
    config, steps, epoch = setup.config, setup.steps, setup.batches.steps_per_epoch
    log_every = config.log.every or max(1, steps // 200)
    evaluate_every = config.evaluate.every or max(epoch, steps // 50)
    save_every = config.checkpoint.every_steps

    setup.opt.train()
    if progress.step == 0:
        reporter.report({"step": 0, "epoch": 0.0, **evaluate(setup, progress, last=False)})
    started, saved, shown = time.perf_counter(), time.monotonic(), 0.0
    poll = Poll(
        setup.processes,
        setup.device.torch_device,
        lambda: stop.signum is not None,
        lambda: stop.save or time.monotonic() - saved > config.checkpoint.every_seconds,
    )
    step = TrainingStep(setup, progress.step, progress.loss_sum, progress.loss_count, poll)

    while step.done < steps:
        step()
        progress.step = step.done

        last = step.done == steps
        log_due = last or step.done % log_every == 0
        test_due = last or step.done % evaluate_every == 0
        if log_due or test_due:
            if first := step.diverged_at():
                raise Diverged(first)
            progress.seconds += time.perf_counter() - started
            row: dict[str, Any] = {"step": step.done, "epoch": step.done / epoch}
            if log_due:
                progress.train_loss = step.take_mean_loss()
                row |= {
                    "lr": setup.optimizer.param_groups[0]["lr"],
                    "train_loss": progress.train_loss,
                    "penalty": float(step.penalty),
                    "seconds": progress.seconds,
                    "images_per_second": step.done * config.batch_size / progress.seconds,
                }
            if test_due:
                row |= evaluate(setup, progress, last)
            reporter.report(row)
            started = time.perf_counter()

        now = time.monotonic()
        if last or now - shown > _SHOW_SECONDS:
            reporter.show(progress, float(step.loss))
            shown = now
        pruned = test_due and not last and any(setup.processes.gather(reporter.pruned()))
        asked_to_stop, save_due = poll.answers()
        save_due |= save_every is not None and step.done % save_every == 0
        if save_due or asked_to_stop or pruned:
            stop.save = False
            poll.forget()
            progress.seconds += time.perf_counter() - started
            progress.loss_sum, progress.loss_count = float(step.loss_sum), step.loss_count
            setup.collect()
            reporter.save(asdict(progress))
            saved, started = time.monotonic(), time.perf_counter()
            if asked_to_stop:
                stop.signum = max(setup.processes.gather(stop.signum or 0))
                raise Interrupted(stop.signum)
            if pruned:
                raise Pruned
    progress.loss_sum, progress.loss_count = float(step.loss_sum), step.loss_count
    setup.collect()


def evaluate(setup: Setup, progress: Progress, last: bool) -> dict[str, Any]:
    """Evaluate the network as it is: `progress` takes it in, the row of metrics is returned."""
    setup.opt.eval()
    setup.collect()
    errors = (
        _test(setup, progress, last)
        if setup.validation is None
        else _validate(setup, progress, last)
    )
    if last:
        errors |= _train_error(setup, progress)
    found = geometry(setup.opt)
    measured = setup.opt.measure()
    setup.opt.train()
    if progress.step == 0:
        progress.energy_start = found.energy
        progress.energy_excess_start = found.energy_excess
        progress.half_space_excess_start = found.half_space_excess
        progress.largest_cosine_start = found.largest_cosine
        progress.angles_start = found.angles
    progress.energy_end = found.energy
    progress.energy_excess_end = found.energy_excess
    progress.half_space_excess_end = found.half_space_excess
    progress.largest_cosine_end = found.largest_cosine
    progress.angles_end = found.angles
    progress.measured = measured
    return {
        **errors,
        "energy": found.energy,
        "energy_excess": found.energy_excess,
        "half_space_excess": found.half_space_excess,
        "largest_cosine": found.largest_cosine,
        "orthogonality_error": measured.get("orthogonality_error"),
        **measured,
    }


def _test(setup: Setup, progress: Progress, last: bool) -> dict[str, float]:
    when = setup.config.evaluate.test
    if when == "never" or (when == "last" and not last):
        return {}
    found = _on_test_images(setup)
    best = progress.best_test_error
    progress.best_test_error = found.error if best is None else min(found.error, best)
    return _take_in(found, progress)


def _validate(setup: Setup, progress: Progress, last: bool) -> dict[str, float]:
    """The test error is in the row of the last step only. That of the best step so far is known
    to `progress` alone: a number is cheaper to keep than the best step's weights."""
    assert setup.validation is not None
    images, labels = setup.validation.images, setup.validation.labels
    error = quality(setup.opt, images, labels, setup.device, setup.processes).error
    best = progress.best_validation_error
    improved = best is None or error < best
    progress.validation_error = error
    if improved:
        progress.best_validation_error = error
        progress.best_step = progress.step
        progress.test_error_at_best = None
    when = setup.config.evaluate.test
    if when == "never" or not (last or (improved and when == "every")):
        return {"validation_error": error}
    tested = _on_test_images(setup)
    if improved:
        progress.test_error_at_best = tested.error
    return {"validation_error": error} | (_take_in(tested, progress) if last else {})


def _on_test_images(setup: Setup) -> Quality:
    images, labels = setup.data.test_images, setup.data.test_labels
    return quality(setup.opt, images, labels, setup.device, setup.processes)


def _take_in(tested: Quality, progress: Progress) -> dict[str, float]:
    progress.test_error = tested.error
    progress.test_nll = tested.nll
    progress.calibration_error = tested.calibration_error
    return {"test_error": tested.error}


def _train_error(setup: Setup, progress: Progress) -> dict[str, float]:
    """Of at most as many training images as there are test images, with the labels that they are
    trained on, and not augmented."""
    images, labels = setup.data.train_images, setup.data.train_labels
    count = min(len(labels), len(setup.data.test_labels))
    # Folders are sorted by class: the chosen ones are evenly spaced.
    chosen = torch.arange(count, device=images.device) * len(labels) // count
    truth = labels[chosen.to(labels.device)]
    found = quality(setup.opt, images[chosen], truth, setup.device, setup.processes)
    progress.train_error = found.error
    return {"train_error": found.error}
