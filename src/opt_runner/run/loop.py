"""The training loop: the reference's recipe, read from top to bottom."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from opt_runner.records.result import Result
from opt_runner.run.evaluate import Diverged, evaluate
from opt_runner.run.interrupt import Interrupted, StopRequest
from opt_runner.run.reporter import Reporter
from opt_runner.run.set_up import Setup
from opt_runner.run.step import TrainingStep

_SHOW_SECONDS = 0.5


class Pruned(Exception):
    """A search has stopped the run, which has saved."""


def train(
    setup: Setup,
    result: Result,
    reporter: Reporter,
    stop: StopRequest,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Train from where `result` is up to `setup.steps`, or until patience ends, and fill it.

    state: the value of `TrainingStep.state` at the checkpoint.

    All processes of a run end at the same step, in the same way. Raises Diverged, and after saving
    a checkpoint Interrupted or Pruned.
    """
    config, steps, epoch = setup.config, setup.steps, setup.batches.steps_per_epoch
    log_every = config.log.every or max(1, steps // 200)
    save_every = config.checkpoint.every_steps

    setup.opt.train()
    if result.steps == 0:
        reporter.report({"step": 0, "epoch": 0.0, **evaluate(setup, result, last=False)})
    started = saved = stop.clock()
    shown = -_SHOW_SECONDS
    step = TrainingStep(setup, result.steps, **(state or {}))

    last = step.done == steps or result.stopped is not None
    while not last:
        step()
        result.steps = step.done

        last = step.done == steps
        log_due = last or step.done % log_every == 0
        test_due = last or step.done % setup.evaluate_every == 0
        if log_due or test_due:
            _check_finite(step)
            result.seconds += stop.clock() - started
            row: dict[str, Any] = {"step": step.done, "epoch": step.done / epoch}
            evaluated = evaluate(setup, result, last) if test_due else {}
            last = last or result.stopped is not None
            if log_due or last:
                result.train_loss = step.take_mean_loss()
                rate = step.done * setup.batches.batch_size / result.seconds
                result.samples_per_second = round(rate, 1)
                row |= {
                    "lr": setup.optimizer.param_groups[0]["lr"],
                    "train_loss": result.train_loss,
                    "penalty": float(step.penalty),
                    "seconds": result.seconds,
                    "samples_per_second": rate,
                }
            reporter.report(row | evaluated)
            started = stop.clock()

        now = stop.clock()
        if last or now - shown > _SHOW_SECONDS:
            reporter.show(step.done, float(step.loss))
            shown = now
        save_due = save_every is not None and step.done % save_every == 0
        asked_to_stop, save_due, pruned = setup.processes.any(
            stop.signum is not None,
            save_due or stop.save or now - saved > config.checkpoint.every_seconds,
            test_due and not last and reporter.pruned(),
        )
        if save_due or asked_to_stop or pruned:
            _check_finite(step)  # a checkpoint holds no NaN
            stop.save = False
            result.seconds += stop.clock() - started
            reporter.save({"result": asdict(result), "step": step.state()})
            saved = started = stop.clock()
            if asked_to_stop:
                stop.signum = max(setup.processes.gather(stop.signum or 0))
                raise Interrupted(stop.signum)
            if pruned:
                raise Pruned


def _check_finite(step: TrainingStep) -> None:
    if first := step.diverged_at():
        raise Diverged(f"loss is not finite at step {first}")
