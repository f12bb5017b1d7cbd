"""The training loop: the reference's recipe, read from top to bottom."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from opt_runner.config import Config
from opt_runner.datasets import Batches, Images
from opt_runner.hardware import Hardware
from opt_runner.interrupt import Interrupted, StopRequest
from opt_runner.opt import OPT
from opt_runner.training.evaluate import error_percent, geometry
from opt_runner.training.loss import smoothed_cross_entropy
from opt_runner.training.schedule import set_learning_rates


class Diverged(Exception):
    """The loss of a step was NaN or infinite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"loss is not finite at step {step}")
        self.step = step


@dataclass
class Progress:
    """How far a cell is: what a checkpoint keeps beside the weights, and a result reports."""

    step: int = 0
    seconds: float = 0.0  # of training, evaluation left out
    loss_sum: float = 0.0  # since the last loss record
    loss_count: int = 0
    train_loss: float | None = None
    test_error: float | None = None
    best_test_error: float | None = None
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
    orthogonality_error: float | None = None


@dataclass(frozen=True)
class Setup:
    """What a cell trains, on what, with what: built before its record is opened."""

    hardware: Hardware
    data: Images
    batches: Batches
    opt: OPT
    steps: int


def train(
    setup: Setup,
    optimizer: Optimizer,
    config: Config,
    progress: Progress,
    report: Callable[[dict[str, Any]], None],
    save: Callable[[dict[str, Any]], None],
    show: Callable[[Progress, float], None],
    stop: StopRequest,
) -> None:
    """Train up to `setup.steps`, from where `progress` is, which is kept up to date.

    report: takes a row of metrics. save: takes the progress, for a checkpoint. show: takes the
    progress and the loss of a step, for the screen.
    Raises Diverged, and Interrupted after saving a checkpoint.
    """
    opt, data, hardware, steps = setup.opt, setup.data, setup.hardware, setup.steps
    epoch = setup.batches.steps_per_epoch
    log_every = config.log.every or max(1, steps // 200)
    evaluate_every = config.evaluate.every or max(epoch, steps // 50)
    warmup = round(config.schedule.warmup * steps)
    milestones = [round(share * steps) for share in config.schedule.milestones]

    def evaluate() -> dict[str, Any]:
        opt.eval()
        error = error_percent(opt, data.test_images, data.test_labels, hardware)
        kept = geometry(opt)
        opt.train()
        progress.test_error = error
        best = progress.best_test_error
        progress.best_test_error = error if best is None else min(error, best)
        if progress.step == 0:
            progress.energy_start = kept.energy
            progress.energy_excess_start = kept.energy_excess
            progress.half_space_excess_start = kept.half_space_excess
            progress.largest_cosine_start = kept.largest_cosine
            progress.angles_start = kept.angles
        progress.energy_end = kept.energy
        progress.energy_excess_end = kept.energy_excess
        progress.half_space_excess_end = kept.half_space_excess
        progress.largest_cosine_end = kept.largest_cosine
        progress.angles_end = kept.angles
        progress.orthogonality_error = kept.orthogonality_error
        return {
            "test_error": error,
            "energy": kept.energy,
            "energy_excess": kept.energy_excess,
            "half_space_excess": kept.half_space_excess,
            "largest_cosine": kept.largest_cosine,
            "orthogonality_error": kept.orthogonality_error,
        }

    opt.train()
    if progress.step == 0:
        report({"step": 0, "epoch": 0.0, **evaluate()})
    # What the steps add up stays on the device: nothing waits for a GPU but a record.
    loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64, device=hardware.device)
    diverged_at = torch.tensor(0, device=hardware.device)
    started, saved, shown = time.perf_counter(), time.monotonic(), 0.0

    for step in range(progress.step, steps):
        set_learning_rates(optimizer, step, warmup, milestones, config.schedule.factor)
        x, y = setup.batches.batch(step)
        with hardware.autocast():
            logits = opt(x)
        fit = smoothed_cross_entropy(
            logits.float(), y, config.loss.label_smoothing, config.loss.softmax_floor
        )
        penalty = opt.penalty()
        loss = fit + penalty
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

        loss_sum += fit.detach()
        bad = ~torch.isfinite(loss.detach()) & (diverged_at == 0)
        diverged_at = torch.where(bad, step + 1, diverged_at)
        progress.step = step + 1
        progress.loss_count += 1

        last = progress.step == steps
        log_due = last or progress.step % log_every == 0
        test_due = last or progress.step % evaluate_every == 0
        if log_due or test_due:
            if first := int(diverged_at):
                raise Diverged(first)
            progress.seconds += time.perf_counter() - started
            row: dict[str, Any] = {"step": progress.step, "epoch": progress.step / epoch}
            if log_due:
                progress.train_loss = float(loss_sum) / progress.loss_count
                row |= {
                    "lr": optimizer.param_groups[0]["lr"],
                    "train_loss": progress.train_loss,
                    "penalty": float(penalty.detach()),
                    "seconds": progress.seconds,
                    "images_per_second": progress.step * config.batch_size / progress.seconds,
                }
                loss_sum.zero_()
                progress.loss_count = 0
            if test_due:
                row |= evaluate()
            report(row)
            started = time.perf_counter()

        now = time.monotonic()
        if last or now - shown > _SHOW_SECONDS:
            show(progress, float(fit.detach()))
            shown = now
        every = config.checkpoint.every_steps
        save_due = every is not None and progress.step % every == 0
        if save_due or stop.signum is not None or now - saved > config.checkpoint.every_seconds:
            progress.seconds += time.perf_counter() - started
            progress.loss_sum = float(loss_sum)
            save(asdict(progress))
            saved, started = time.monotonic(), time.perf_counter()
            if stop.signum is not None:
                raise Interrupted(stop.signum)


_SHOW_SECONDS = 0.5
