"""One cell, read from top to bottom: data, network, rotations, loop, result."""

import logging
import platform
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
import yaml
from torch.optim import Optimizer

from opt_runner import __version__, components, hardware
from opt_runner.config import Config, signature
from opt_runner.datasets import Augment, Batches, Dataset, Images
from opt_runner.errors import UserError
from opt_runner.hardware import Hardware
from opt_runner.interrupt import Interrupted, StopRequest, stop_requests
from opt_runner.methods import Method
from opt_runner.opt import OPT
from opt_runner.records import (
    Busy,
    CannotWrite,
    DamagedResult,
    Record,
    Result,
    set_aside,
    write_whole,
)
from opt_runner.tracking import screen, tracker
from opt_runner.training import checkpoint
from opt_runner.training.loop import Diverged, Progress, Setup, train

# The reference's moving average of BatchNorm, and the budget it was chosen for.
_BN_MOMENTUM, _BN_STEPS, _BN_MOST = 0.001, 75_000, 0.1


@dataclass(frozen=True)
class Identity:
    """What a cell is, known before any work: its dataset, signature and record."""

    config: Config
    dataset: Dataset
    data: str  # the fingerprint of its dataset
    signature: str
    record: Record
    command: str  # that makes this cell

    @property
    def title(self) -> str:
        c = self.config
        return f"{c.method.name} {c.model.name} {c.dataset.name} seed {c.seed}"


def identify(config: Config, command: str = "", check_device: bool = True) -> Identity:
    """command: that makes this cell.

    Raises UserError where the data, the device or W&B's key is not there.
    """
    tracker.check(config.tracking)
    dataset: Dataset = components.build(config.dataset, "dataset")
    dataset.check()
    kind = hardware.device(config.hardware).type if check_device else config.hardware.device
    data = dataset.fingerprint()
    name = signature(config, data, kind)
    return Identity(config, dataset, data, name, Record(config.directory(name)), command)


def run(cell: Identity, in_sweep: bool) -> Result | None:
    """Run the cell, or read its result where it is settled. The result is on disk at the end.

    None where another process has the cell and it is to be left to that.

    A fault of the data or the config that shows only now raises UserError with nothing written;
    in a sweep it is recorded as the cell's failure, and so is any other exception.
    Raises Interrupted after saving where a signal asks to stop.
    """
    if not cell.config.rerun and (settled := _settled(cell)):
        return settled
    try:
        setup: Setup | Exception = set_up(cell)
    except Exception as error:
        if isinstance(error, UserError) and not in_sweep:
            raise
        setup = error
    try:
        with cell.record.locked(partial(_busy, cell)):
            try:
                if cell.config.rerun:
                    if aside := cell.record.set_aside():
                        screen.say(f"{cell.title}: the old record is kept in {aside}")
                elif settled := _settled(cell, mend=True):
                    return settled
                if isinstance(setup, Exception):
                    return _fail(cell, setup)
                start = _start(cell, setup)
            except Exception as error:
                if isinstance(error, UserError) and not in_sweep:
                    raise
                return _fail(cell, error)
            with stop_requests() as stop:
                result = _train(cell, setup, start, stop)
                if stop.signum is not None:  # it came after the last step
                    raise Interrupted(stop.signum)
                return result
    except Busy:
        return None


def _busy(cell: Identity, holder: str) -> None:
    if cell.config.when_locked == "leave":
        screen.say(f"{cell.title}: left to {holder}, which runs it")
        raise Busy
    screen.say(f"{cell.title}: waiting for {holder}, which runs it")


def _settled(cell: Identity, mend: bool = False) -> Result | None:
    """The result of a cell with which nothing is left to do.

    mend: set a damaged result aside, which only who holds the cell may do.
    """
    try:
        result = cell.record.read_result()
    except DamagedResult as error:
        if mend:
            screen.say(f"{cell.title}: {error}; set aside as {set_aside(cell.record.result).name}")
        return None
    if result is None or not result.settled or not checkpoint.is_whole(cell.record):
        return None
    screen.say(f"{cell.title}: {result.status} before, skipped ({cell.record.directory})")
    if result.metrics_size is not None and not cell.record.holds_metrics(result.metrics_size):
        screen.say(
            f"{cell.title}: its result is whole, but {cell.record.metrics} is damaged: its curves "
            "are lost, rerun=true trains the cell anew"
        )
    return result


def _fail(cell: Identity, error: Exception) -> Result:
    """Record a failure before the first step, where no result of earlier work stands."""
    result = _result(cell, "failed", Progress(), error=_reason(error))
    with _run_log(cell.record):
        log.error("%s", "".join(traceback.format_exception(error)))
        earlier = cell.record.read_result()
        if earlier is None or not earlier.settled:
            with suppress(CannotWrite):  # which the result then says
                _write_config(cell)
            _write_result(cell, result)
    screen.say(f"{cell.title}: failed, {result.error}")
    return result


def _write_result(cell: Identity, result: Result) -> None:
    """Where even that cannot be written, it is said: the next run finds the cell as cut off."""
    try:
        cell.record.write_result(result)
    except CannotWrite as error:
        screen.say(f"{cell.title}: {error}")


def _reason(error: Exception) -> str:
    known = isinstance(error, UserError | CannotWrite)
    return str(error) if known else f"{type(error).__name__}: {error}"


def set_up(cell: Identity) -> Setup:
    """Data, network and rotations on their device. Raises UserError where they do not fit."""
    config = cell.config
    chosen = hardware.set_up(config.hardware)
    data = cell.dataset.load().to(chosen.device)
    batches = Batches(
        data.train_images,
        data.train_labels,
        config.batch_size,
        config.seed,
        Augment(**config.augment.model_dump()),
        memory_format=chosen.memory_format,
    )
    steps = config.budget.in_steps(batches.steps_per_epoch)
    torch.manual_seed(config.seed)
    network = components.build(
        config.model,
        "model",
        in_channels=data.channels,
        image_size=data.size,
        num_classes=data.num_classes,
        bn_momentum=min(_BN_MOST, _BN_MOMENTUM * _BN_STEPS / steps),
    )
    method: Method = components.build(config.method, "method")
    opt = OPT(chosen.place(network), method.scaled_to(steps))
    if chosen.compile:
        # Cells share OPT's code: without this, dynamo goes eager after eight of a sweep.
        torch.compiler.reset()
        opt.compile()
    _try_shapes(opt, data, chosen)
    return Setup(chosen, data, batches, opt, steps)


@torch.no_grad()
def _try_shapes(opt: OPT, data: Images, chosen: Hardware) -> None:
    """A network that does not fit the images says so now, not as a traceback from its inside."""
    images = data.train_images[:2]
    x = torch.zeros(images.shape, device=chosen.device)
    opt.network.eval()
    try:
        logits = opt.network(x)
    except RuntimeError as error:
        raise UserError(
            f"model: fails on images of shape {tuple(images.shape[1:])}: {error}"
        ) from error
    if tuple(logits.shape) != (len(images), data.num_classes):
        raise UserError(
            f"model: gives an output of shape {tuple(logits.shape)} for {len(images)} images of "
            f"{data.num_classes} classes, expected {(len(images), data.num_classes)}"
        )


def _write_config(cell: Identity) -> None:
    content = yaml.safe_dump(_content(cell.config), sort_keys=False)
    write_whole(cell.record.config, content)
    write_whole(cell.record.command, cell.command + "\n")


def _content(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json", by_alias=True)


@dataclass
class Start:
    """Where a cell starts: its optimizer, and how far it already is."""

    optimizer: Optimizer
    progress: Progress


def _start(cell: Identity, setup: Setup) -> Start:
    """At the checkpoint, else at step 0. Raises UserError for the checkpoint of another cell."""
    say = partial(_say_and_log, cell)
    optimizer = setup.opt.optimizer(**cell.config.optimizer.model_dump())
    saved = checkpoint.load(cell.record, cell.signature, setup.opt, optimizer, say)
    if saved is None:
        cell.record.metrics.unlink(missing_ok=True)
        return Start(optimizer, Progress())
    say(f"goes on from step {saved['step']} of {setup.steps}")
    return Start(optimizer, Progress(**saved))


def _say_and_log(cell: Identity, text: str) -> None:
    screen.say(f"{cell.title}: {text}")
    with _run_log(cell.record):
        log.warning("%s", text)


def _train(cell: Identity, setup: Setup, start: Start, stop: StopRequest) -> Result:
    config, record, progress = cell.config, cell.record, start.progress
    opt, optimizer = setup.opt, start.optimizer
    with (
        _run_log(record),
        screen.cell(cell.title, setup.steps) as bar,
        tracker.start(config, _content(config), cell.signature, cell.title) as tracked,
    ):
        log.info("%s: %s", cell.title, setup.hardware.name)

        def report(row: dict[str, object]) -> None:
            record.append_metrics(row)
            tracked.log(row)
            bar.report(row)

        def save(progress: dict[str, Any]) -> None:
            checkpoint.save(record, cell.signature, opt, optimizer, progress)

        try:
            _write_config(cell)
            train(setup, optimizer, config, progress, report, save, bar.show, stop)
            save(asdict(progress))
            result = _result(cell, "finished", progress, setup)
        except Diverged as error:
            result = _result(cell, "diverged", progress, setup, str(error))
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            # As of a matrix that holds NaN.
            reason = f"no decomposition at step {progress.step + 1}: {error}"
            result = _result(cell, "diverged", progress, setup, reason)
        except Interrupted as error:
            result = _result(cell, "interrupted", progress, setup, str(error))
            _write_result(cell, result)
            tracked.finish(result)
            raise
        except Exception as error:
            log.error("%s", traceback.format_exc())
            result = _result(cell, "failed", progress, setup, _reason(error))
        _write_result(cell, result)
        tracked.finish(result)
        log.info("%s: %s %s", cell.title, result.status, result.error or "")
        bar.end(result)
    return result


def _result(
    cell: Identity,
    status: str,
    progress: Progress,
    setup: Setup | None = None,
    error: str | None = None,
) -> Result:
    config = cell.config
    result = Result(
        status=status,  # type: ignore[arg-type]
        signature=cell.signature,
        method=config.method.name,
        model=config.model.name,
        dataset=config.dataset.name,
        seed=config.seed,
        data=cell.data,
        error=error,
        steps=progress.step,
        test_error=progress.test_error,
        best_test_error=progress.best_test_error,
        train_loss=progress.train_loss,
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
        orthogonality_error=progress.orthogonality_error,
        metrics_size=cell.record.metrics_size(),
        seconds=round(progress.seconds, 3),
        versions={
            "opt_runner": __version__,
            "torch": version("torch"),
            "python": platform.python_version(),
        },
    )
    if setup is not None:
        parameters = list(setup.opt.parameters())
        result.trainable_parameters = sum(p.numel() for p in parameters if p.requires_grad)
        result.effective_parameters = sum(p.numel() for p in setup.opt.network.parameters())
        result.device = setup.hardware.name
        if progress.seconds:
            result.images_per_second = round(
                progress.step * config.batch_size / progress.seconds, 1
            )
    return result


log = logging.getLogger("opt_runner")


@contextmanager
def _run_log(record: Record) -> Iterator[None]:
    """What the package, Python's warnings and exceptions say goes to run.log."""
    handler: logging.Handler
    try:
        handler = logging.FileHandler(record.log)
    except OSError:  # of a full disk the cell's result tells
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [log, logging.getLogger("py.warnings")]
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        logging.captureWarnings(False)
        with suppress(OSError):  # what did not fit on the disk
            handler.close()
