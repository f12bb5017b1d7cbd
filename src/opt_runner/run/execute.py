"""Execute a run: set up, resume, train, and leave a result on disk whatever happens."""

import io
import logging
import platform
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch.optim import Optimizer

from opt_runner import __version__, tracking
from opt_runner.console.run_log import run_log
from opt_runner.console.screen import Screen, outcome
from opt_runner.datasets import loaded, measure_of
from opt_runner.errors import Elsewhere, UserError, in_words
from opt_runner.files import CannotWrite
from opt_runner.opt import OPT, merge
from opt_runner.records import checkpoint, weights
from opt_runner.records.result import Result
from opt_runner.records.stored import StoredRun
from opt_runner.run.evaluate import Diverged
from opt_runner.run.interrupt import Interrupted, StopRequest
from opt_runner.run.loop import Pruned, train
from opt_runner.run.processes import ALONE, Processes
from opt_runner.run.reporter import RecordReporter, Reporter
from opt_runner.run.run import Run, settled_result, write_config
from opt_runner.run.set_up import Setup, set_up
from opt_runner.tracking.wandb import has_agent

log = logging.getLogger("opt_runner")

State = dict[str, Any] | None  # in a checkpoint, see `TrainingStep.state`


class Busy(Exception):
    """Another process has the run."""


def execute(
    run: Run, screen: Screen, in_sweep: bool, stop: StopRequest, processes: Processes = ALONE
) -> Result | None:
    """Execute the run, or read its result if nothing is left to do.

    The result is on disk at the end. Returns None if another process has the run and `when_locked`
    is `leave`. In a sweep every error becomes a failure of the run. For a single run a user's
    mistake before the first step raises UserError, and nothing is written.
    Raises Interrupted after saving, if `stop` asks for it.

    All `processes` call this. Only the first has the record, the trackers and the screen.
    """
    if processes.restarted:  # torchrun restarted us: `rerun` was already done, so resume
        run = replace(run, config=run.config.model_copy(update={"rerun": False}))
    look = processes.first and not run.config.rerun
    settled = settled_result(run, screen) if look else None
    if settled := processes.share(settled):
        if processes.first and has_agent():
            tracking.send(StoredRun(run.record, run.config.content, settled), run.config, screen)
        return settled
    try:
        with ExitStack() as held:
            with processes.together(), stop.at_once():
                setup = set_up(run.config, loaded(run.dataset), processes)
                held.callback(setup.batches.close)
                result, state = _new_result(run, setup), None
                if processes.first:
                    result, state = _begin(run, setup, result, screen, held)
                    if not in_sweep and not result.settled:
                        screen.show(setup.opt.summary())
                        for remark in setup.remarks:
                            screen.say(remark)
            result, state = processes.share((result, state))
            if result.settled:
                return result
            _copy_of_first(processes, setup.opt, setup.optimizer)
            if processes.first:
                _train(run, setup, result, state, screen, stop)
            else:

                def tell(text: str) -> None:
                    screen.fail(f"{run.title}: process {processes.rank}: {text}")

                _steps(run, setup, result, state, Reporter(), stop, tell)
            if result.status != "failed":
                with suppress(Elsewhere):
                    processes.gather(None)  # torchrun ends all processes after the first exit
        stop.raise_if_asked()  # the run has saved, or the signal came after the last step
        return result
    except Busy:
        return None
    except (Exception, SystemExit) as error:  # a user's code may call sys.exit
        if isinstance(error, UserError) and not in_sweep:
            raise
        if not processes.first:  # the first one reports
            return None
        return _fail(run, error, screen)


def give_up(run: Run, reason: str, screen: Screen) -> None:
    """Record the failure of a run whose worker died or could not begin."""
    left_to_others = run.config.model_copy(update={"when_locked": "leave"})
    try:
        _fail(replace(run, config=left_to_others), Elsewhere(reason), screen)
    except UserError as error:
        screen.fail(f"{run.title}: {error}")


def _new_result(run: Run, setup: Setup | None = None) -> Result:
    """Return the result of a run before its first step."""
    config, measure = run.config, measure_of(run.dataset)
    result = Result(
        signature=run.signature,
        method=config.method.name,
        model=config.model.name,
        dataset=config.dataset.name,
        seed=config.seed,
        data=run.data,
        error_name=measure.name,
        error_unit=measure.unit,
        versions={
            "opt_runner": __version__,
            "torch": version("torch"),
            "python": platform.python_version(),
        },
    )
    if setup is not None:
        parameters = list(setup.opt.parameters())
        result.label = setup.opt.method.label
        result.colour = setup.opt.method.colour
        result.trainable_parameters = sum(p.numel() for p in parameters if p.requires_grad)
        result.effective_parameters = sum(p.numel() for p in setup.opt.network.parameters())
        result.device = setup.hardware
    return result


def _begin(
    run: Run, setup: Setup, new: Result, screen: Screen, held: ExitStack
) -> tuple[Result, State]:
    """Hold the run until `held` ends, and return the result to start from.

    It is `new`, or the checkpoint's, or the final result if nothing is left to do.
    Raises Busy, and UserError for the checkpoint of another run.
    """
    if run.config.rerun:
        _set_aside(run, screen)
    held.enter_context(run.record.held(partial(_busy, run, screen, set())))
    if settled := settled_result(run, screen, mend=True):
        return settled, None

    def say(text: str) -> None:
        screen.say(f"{run.title}: {text}")
        with run_log(run.record.log):
            log.warning("%s", text)

    run.record.prune.unlink(missing_ok=True)  # the request of an earlier search
    saved = checkpoint.load(run.record, run.signature, setup.opt, setup.optimizer, say)
    if saved is None:
        run.record.metrics.unlink(missing_ok=True)
        return new, None
    result = Result.parse(saved["result"])
    say(f"resumes from step {result.steps} of {setup.steps}")
    return result, saved["step"]


def _busy(run: Run, screen: Screen, reported: set[str], holder: str) -> None:
    """Say once that another process, `holder`, has the run; called as long as it has."""
    if run.config.when_locked == "leave":
        screen.say(f"{run.title}: left to {holder}, which runs it")
        raise Busy
    if holder not in reported:
        screen.say(f"{run.title}: waiting for {holder}, which runs it")
        reported.add(holder)


def _set_aside(run: Run, screen: Screen) -> None:
    with run.record.held(partial(_busy, run, screen, set())):
        if aside := run.record.set_aside():
            screen.say(f"{run.title}: the old record is kept in {aside}")


def _copy_of_first(processes: Processes, opt: OPT, optimizer: Optimizer) -> None:
    """Copy the first process's state to all others, as it may have read a checkpoint."""
    if not processes.several:
        return
    content = io.BytesIO()
    if processes.first:
        torch.save(checkpoint.state_of(opt, optimizer), content)
    content = io.BytesIO(processes.share(content.getvalue()))
    if not processes.first:
        state = torch.load(content, map_location="cpu", weights_only=True)
        checkpoint.restore(state, opt, optimizer)


def _train(
    run: Run, setup: Setup, result: Result, state: State, screen: Screen, stop: StopRequest
) -> None:
    """Train in the first process, with record, trackers and screen, and write the result."""
    with (
        run_log(run.record.log),
        screen.run(run.title, setup.steps, result.measure) as display,
        tracking.start(run.config, run.signature, run.record, screen) as trackers,
    ):
        log.info("%s: %s; %s", run.title, setup.hardware, setup.placement.why)
        save = partial(checkpoint.save, run.record, run.signature, setup.opt, setup.optimizer)
        reporter = RecordReporter(run.record, save, trackers, display)
        _steps(run, setup, result, state, reporter, stop, tell=log.error)
        _write_result(run, result, screen)
        trackers.finish(result)
        if result.status != "interrupted":
            log.info("%s: %s %s", run.title, result.status, result.error or "")
            display.end(result)


def _steps(
    run: Run,
    setup: Setup,
    result: Result,
    state: State,
    reporter: Reporter,
    stop: StopRequest,
    tell: Callable[[str], None],
) -> None:
    """Train, and record in `result` how it ended. tell: is called with an error's traceback."""
    try:
        if setup.processes.first:
            write_config(run)
        train(setup, result, reporter, stop, state)
        plain = merge(setup.opt)
        if setup.processes.first:
            run.record.check_held()
            result.weights = weights.write(run.record.weights, plain, setup.data.interface)
        result.status = "finished"
    except Diverged as error:
        result.status, result.error = "diverged", str(error)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        # For example a matrix that holds NaN.
        result.status = "diverged"
        result.error = f"no decomposition at step {result.steps + 1}: {error}"
    except Pruned:
        result.status = "pruned"
    except Interrupted as error:
        result.status, result.error = "interrupted", str(error)
    except (Exception, SystemExit) as error:  # a user's code may call sys.exit
        setup.processes.fail(error)
        if setup.processes.first or not isinstance(error, Elsewhere):
            tell(traceback.format_exc())
        result.status, result.error = "failed", _reason(error)


def _write_result(run: Run, result: Result, screen: Screen) -> None:
    """Write the result. If that fails, say so: the next command resumes the run.

    A settled run needs no checkpoints: weights.safetensors holds the network.
    """
    if result.status != "finished":  # not to be seen before the run has ended
        result.test_error_at_best = None
    result.seconds = round(result.seconds, 3)
    result.metrics_size = run.record.metrics_size()
    try:
        run.record.write_result(result)
        if result.settled:
            run.record.drop_checkpoints()
    except CannotWrite as error:
        screen.fail(f"{run.title}: {error}")


def _fail(run: Run, error: BaseException, screen: Screen) -> Result | None:
    """Record a failure outside of training, unless there is a result of earlier work."""
    result = _new_result(run)
    result.status, result.error = "failed", _reason(error)
    result.steps = _steps_on_disk(run)
    screen.fail(f"{run.title}: {outcome(result)}")
    try:
        if run.config.rerun:
            _set_aside(run, screen)
        with run.record.held(partial(_busy, run, screen, set())), run_log(run.record.log):
            log.error("%s", "".join(traceback.format_exception(error)))
            earlier = run.record.read_result()
            if earlier is None or not earlier.settled:
                with suppress(CannotWrite):  # the result then says this
                    write_config(run)
                _write_result(run, result, screen)
    except Busy:
        return None
    return result


def _steps_on_disk(run: Run) -> int:
    """Return the number of steps of earlier processes, as the metrics show it."""
    if run.config.rerun:
        return 0
    try:
        rows = run.record.read_metrics()
    except (OSError, ValueError):  # there are none, or they are damaged
        return 0
    return int(rows[-1]["step"]) if rows else 0


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"the run's code called sys.exit({error.code!r})"
    known = isinstance(error, CannotWrite | Elsewhere)
    return str(error) if known else in_words(error)
