"""Execute a run: set up, resume, train, and leave a result on disk whatever happens."""

import logging
import platform
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
import yaml

from opt_runner import __version__
from opt_runner.console import wandb
from opt_runner.console.run_log import run_log
from opt_runner.console.screen import RunDisplay, Screen, outcome
from opt_runner.errors import Elsewhere, UserError, in_words
from opt_runner.files import CannotWrite, set_aside, write_whole
from opt_runner.opt import merge
from opt_runner.records import checkpoint, weights
from opt_runner.records.result import DamagedResult, Result, Status
from opt_runner.records.weights import Interface
from opt_runner.run.interrupt import Interrupted, StopRequest
from opt_runner.run.loop import Diverged, Progress, Pruned, Reporter, train
from opt_runner.run.processes import ALONE, Processes
from opt_runner.run.run import Run
from opt_runner.run.set_up import Setup, set_up

log = logging.getLogger("opt_runner")


class Busy(Exception):
    """Another process has the run."""


class WorkerFailed(Exception):
    """What a run's worker could not record itself."""


def execute(
    run: Run, screen: Screen, in_sweep: bool, stop: StopRequest, processes: Processes = ALONE
) -> Result | None:
    """Execute the run, or read its result where nothing is left to do.

    The result is on disk at the end. None where another process has the run and it is to be left
    to that. In a sweep every fault is the run's failure; of a run alone, a mistake of the user's
    that shows before the first step raises UserError, and nothing is written.
    Raises Interrupted after saving where `stop` asks for it.

    All of `processes` call this. The first has the record, the tracker and the screen to itself.
    """
    if processes.restarted:  # what has been started over once is gone on with
        run = replace(run, config=run.config.model_copy(update={"rerun": False}))
    look = processes.first and not run.config.rerun
    settled = settled_result(run, screen) if look else None
    if settled := processes.share(settled):
        return settled
    try:
        with ExitStack() as held:
            with processes.together(), stop.at_once():
                setup = set_up(run.config, run.dataset.load(), processes)
                held.callback(setup.batches.close)
                begun: Result | Progress = Progress()
                if processes.first:
                    begun = _begin(run, setup, screen, held)
                    if not in_sweep and isinstance(begun, Progress):
                        screen.show(setup.opt.summary())
                        if setup.placement.streamed:
                            screen.say(setup.placement.why)
            begun = processes.share(begun)
            if isinstance(begun, Result):
                return begun
            checkpoint.copy_of_first(processes, setup.opt, setup.optimizer)
            result = (_train if processes.first else _follow)(run, setup, begun, screen, stop)
            if result.status != "failed":
                with suppress(Elsewhere):
                    processes.gather(None)  # who starts the processes ends all after the first exit
        stop.raise_if_asked()  # saved, or the signal came after the last step
        return result
    except Busy:
        return None
    except Exception as error:
        if isinstance(error, UserError) and not in_sweep:
            raise
        if not processes.first:  # the first tells
            return None
        return _fail(run, error, screen)


def _begin(run: Run, setup: Setup, screen: Screen, held: ExitStack) -> Result | Progress:
    """Hold the run until `held` ends. Returns how far it is, or its result where nothing is left
    to do. Raises Busy."""
    held.enter_context(run.record.held(partial(_busy, run, screen, set())))
    if run.config.rerun:
        _set_aside(run, screen)
    elif settled := settled_result(run, screen, mend=True):
        return settled
    return _resume(run, setup, screen)


def _busy(run: Run, screen: Screen, told: set[str], holder: str) -> None:
    """Called while another process, `holder`, has the run."""
    if run.config.when_locked == "leave":
        screen.say(f"{run.title}: left to {holder}, which runs it")
        raise Busy
    if holder not in told:
        screen.say(f"{run.title}: waiting for {holder}, which runs it")
        told.add(holder)


def _set_aside(run: Run, screen: Screen) -> None:
    if aside := run.record.set_aside():
        screen.say(f"{run.title}: the old record is kept in {aside}")


def settled_result(run: Run, screen: Screen, mend: bool = False) -> Result | None:
    """The result of a run with which nothing is left to do.

    mend: set a damaged result aside, which only who holds the run may do.
    """
    try:
        result = run.record.read_result()
    except DamagedResult as error:
        if mend:
            screen.say(f"{run.title}: {error}; set aside as {set_aside(run.record.result).name}")
        return None
    if result is None or not result.settled or not checkpoint.is_whole(run.record):
        return None
    screen.say(f"{run.title}: {result.status} before, skipped ({run.record.directory})")
    if result.metrics_size is not None and not run.record.holds_metrics(result.metrics_size):
        screen.say(
            f"{run.title}: its result is whole, but {run.record.metrics} is damaged and has no "
            "curves to draw; rerun=true trains the run anew"
        )
    return result


def give_up(run: Run, reason: str, screen: Screen) -> None:
    """Record the failure of a run whose worker cannot do so: it died, or could not begin."""
    left_to_others = run.config.model_copy(update={"when_locked": "leave"})
    try:
        _fail(replace(run, config=left_to_others), WorkerFailed(reason), screen)
    except UserError as error:
        screen.fail(f"{run.title}: {error}")


def _fail(run: Run, error: Exception, screen: Screen) -> Result | None:
    """Record a failure outside of training, where no result of earlier work stands."""
    result = _result(run, "failed", _begun(run), error=_reason(error))
    screen.fail(f"{run.title}: {outcome(result)}")
    try:
        with run.record.held(partial(_busy, run, screen, set())), run_log(run.record.log):
            log.error("%s", "".join(traceback.format_exception(error)))
            if run.config.rerun:
                _set_aside(run, screen)
            earlier = run.record.read_result()
            if earlier is None or not earlier.settled:
                with suppress(CannotWrite):  # which the result then says
                    _write_config(run)
                _write_result(run, result, screen)
    except Busy:
        return None
    return result


def _begun(run: Run) -> Progress:
    """How far an earlier process brought the run, as its metrics tell."""
    if run.config.rerun:
        return Progress()
    try:
        rows = run.record.read_metrics()
    except (OSError, ValueError):  # there are none, or they are damaged
        return Progress()
    return Progress(step=rows[-1]["step"]) if rows else Progress()


def _write_result(run: Run, result: Result, screen: Screen) -> None:
    """Where that fails too, the screen tells: the next command finds the run cut off."""
    try:
        run.record.write_result(result)
    except CannotWrite as error:
        screen.fail(f"{run.title}: {error}")


def _reason(error: Exception) -> str:
    known = isinstance(error, CannotWrite | Elsewhere | WorkerFailed)
    return str(error) if known else in_words(error)


def _write_config(run: Run) -> None:
    content = yaml.safe_dump(run.config.content, sort_keys=False)
    write_whole(run.record.config, content)
    write_whole(run.record.command, run.command + "\n")


def _resume(run: Run, setup: Setup, screen: Screen) -> Progress:
    """From the checkpoint, else from step 0. Raises UserError for the checkpoint of another run."""

    def say(text: str) -> None:
        screen.say(f"{run.title}: {text}")
        with run_log(run.record.log):
            log.warning("%s", text)

    run.record.prune.unlink(missing_ok=True)  # of a process that did not see it
    saved = checkpoint.load(run.record, run.signature, setup.opt, setup.optimizer, say)
    if saved is None:
        run.record.metrics.unlink(missing_ok=True)
        return Progress()
    say(f"goes on from step {saved['step']} of {setup.steps}")
    return Progress(**saved)


class _Reporter:
    """Sends what the loop reports to the record, to W&B and to the screen."""

    def __init__(self, run: Run, setup: Setup, tracker: wandb.Tracker, display: RunDisplay) -> None:
        self.run = run
        self.tracker = tracker
        self.display = display
        self.show = display.show
        self._save: Callable[[dict[str, Any]], None] = partial(
            checkpoint.save, run.record, run.signature, setup.opt, setup.optimizer
        )

    def report(self, row: dict[str, Any]) -> None:
        self.run.record.append_metrics(row)
        self.tracker.log(row)
        self.display.report(row)

    def save(self, progress: dict[str, Any]) -> None:
        self._save(progress)

    def pruned(self) -> bool:
        return self.run.record.prune.exists()


def _train(run: Run, setup: Setup, progress: Progress, screen: Screen, stop: StopRequest) -> Result:
    with (
        run_log(run.record.log),
        screen.run(run.title, setup.steps) as display,
        wandb.start(run.config, run.signature, screen) as tracker,
    ):
        log.info("%s: %s; %s", run.title, setup.hardware, setup.placement.why)
        reporter = _Reporter(run, setup, tracker, display)
        result = _steps(run, setup, progress, reporter, stop, tell=log.error)
        _write_result(run, result, screen)
        tracker.finish(result)
        if result.status != "interrupted":
            log.info("%s: %s %s", run.title, result.status, result.error or "")
            display.end(result)
    return result


class _NoReporter:
    """The loop's news where another process reports them."""

    def report(self, row: dict[str, Any]) -> None: ...

    def save(self, progress: dict[str, Any]) -> None: ...

    def show(self, progress: Progress, loss: float) -> None: ...

    def pruned(self) -> bool:
        return False


def _follow(
    run: Run, setup: Setup, progress: Progress, screen: Screen, stop: StopRequest
) -> Result:
    """What the other processes do while the first does `_train`: the same steps, and no files."""

    def tell(text: str) -> None:
        screen.fail(f"{run.title}: process {setup.processes.rank}: {text}")

    return _steps(run, setup, progress, _NoReporter(), stop, tell)


def _steps(
    run: Run,
    setup: Setup,
    progress: Progress,
    reporter: Reporter,
    stop: StopRequest,
    tell: Callable[[str], None],
) -> Result:
    """Train; how that ends is the result. tell: gets the traceback of what went wrong."""
    try:
        if setup.processes.first:
            _write_config(run)
        train(setup, progress, reporter, stop)
        plain = merge(setup.opt)  # in which all processes take part
        reporter.save(asdict(progress))
        if setup.processes.first:
            weights.write(run.record.weights, plain, Interface.of(setup.data))
        return _result(run, "finished", progress, setup)
    except Diverged as error:
        return _result(run, "diverged", progress, setup, str(error))
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        # As of a matrix that holds NaN.
        reason = f"no decomposition at step {progress.step + 1}: {error}"
        return _result(run, "diverged", progress, setup, reason)
    except Pruned:
        return _result(run, "pruned", progress, setup)
    except Interrupted as error:
        return _result(run, "interrupted", progress, setup, str(error))
    except Exception as error:
        if setup.processes.fail(error):
            tell(traceback.format_exc())
        return _result(run, "failed", progress, setup, _reason(error))


def _result(
    run: Run,
    status: Status,
    progress: Progress,
    setup: Setup | None = None,
    error: str | None = None,
) -> Result:
    config, measured = run.config, dict(progress.measured or {})
    result = Result(
        status=status,
        signature=run.signature,
        method=config.method.name,
        model=config.model.name,
        dataset=config.dataset.name,
        seed=config.seed,
        data=run.data,
        error=error,
        steps=progress.step,
        test_error=progress.test_error,
        best_test_error=progress.best_test_error,
        validation_error=progress.validation_error,
        best_validation_error=progress.best_validation_error,
        best_step=progress.best_step,
        # Nobody sees it before the run is over.
        test_error_at_best=progress.test_error_at_best if status == "finished" else None,
        train_loss=progress.train_loss,
        train_error=progress.train_error,
        test_nll=progress.test_nll,
        calibration_error=progress.calibration_error,
        energy_start=progress.energy_start,
        energy_end=progress.energy_end,
        energy_excess_start=progress.energy_excess_start,
        energy_excess_end=progress.energy_excess_end,
        half_space_excess_start=progress.half_space_excess_start,
        half_space_excess_end=progress.half_space_excess_end,
        largest_cosine_start=progress.largest_cosine_start,
        largest_cosine_end=progress.largest_cosine_end,
        angles_start=progress.angles_start,
        angles_end=progress.angles_end,
        orthogonality_error=measured.pop("orthogonality_error", None),
        measured=measured,
        metrics_size=run.record.metrics_size(),
        seconds=round(progress.seconds, 3),
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
        if progress.seconds:
            result.images_per_second = round(
                progress.step * config.batch_size / progress.seconds, 1
            )
    return result
