"""One cell, read from top to bottom: data, network, rotations, loop, result."""

import logging
import platform
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import torch
import yaml

from opt_runner import __version__, components, hardware
from opt_runner.config import Config, signature
from opt_runner.datasets import Augment, Batches, Dataset, Images
from opt_runner.errors import UserError
from opt_runner.hardware import Hardware
from opt_runner.interrupt import Interrupted, StopRequest, stop_requests
from opt_runner.methods import Method
from opt_runner.opt import OPT
from opt_runner.records import Record, Result, write_whole
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
    signature: str
    record: Record

    @property
    def title(self) -> str:
        c = self.config
        return f"{c.method.name} {c.model.name} {c.dataset.name} seed {c.seed}"


def identify(config: Config, check_device: bool = True) -> Identity:
    """Raises UserError where the data, the device or W&B's key is not there."""
    tracker.check(config.tracking)
    dataset: Dataset = components.build(config.dataset, "dataset")
    dataset.check()
    kind = hardware.device(config.hardware).type if check_device else config.hardware.device
    name = signature(config, dataset.fingerprint(), kind)
    return Identity(config, dataset, name, Record(config.directory(name)))


def run(cell: Identity, in_sweep: bool) -> Result:
    """Run the cell, or read its result where it is settled. The result is on disk at the end.

    A fault of the data or the config that shows only now raises UserError with nothing written;
    in a sweep it is recorded as the cell's failure, and so is any other exception.
    Raises Interrupted after saving where a signal asks to stop.
    """
    if not cell.config.rerun and (settled := _settled(cell)):
        return settled
    waiting = partial(screen.say, f"{cell.title}: waiting for another process")
    try:
        setup = _set_up(cell)
    except Exception as error:
        if isinstance(error, UserError) and not in_sweep:
            raise
        with cell.record.locked(waiting), _run_log(cell.record):
            return _fail(cell, error)
    with cell.record.locked(waiting), stop_requests() as stop:
        if cell.config.rerun:
            if aside := cell.record.set_aside():
                screen.say(f"{cell.title}: the old record is kept in {aside}")
        elif settled := _settled(cell):
            return settled
        return _train(cell, setup, stop)


def _settled(cell: Identity) -> Result | None:
    try:
        result = cell.record.read_result()
    except UserError as error:
        screen.say(f"{cell.title}: {error}; set aside as {cell.record.set_result_aside().name}")
        return None
    if result is None or not result.settled:
        return None
    screen.say(f"{cell.title}: {result.status} before, skipped ({cell.record.directory})")
    return result


def _fail(cell: Identity, error: Exception) -> Result:
    """Record a failure before the first step."""
    log.error("%s", "".join(traceback.format_exception(error)))
    result = _result(cell, "failed", Progress(), error=_reason(error))
    cell.record.write_result(result)
    screen.say(f"{cell.title}: failed, {result.error}")
    return result


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _set_up(cell: Identity) -> Setup:
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


def _train(cell: Identity, setup: Setup, stop: StopRequest) -> Result:
    config, record = cell.config, cell.record
    content = config.model_dump(mode="json", by_alias=True)
    opt, steps = setup.opt, setup.steps
    write_whole(record.config, yaml.safe_dump(content, sort_keys=False))
    optimizer = opt.optimizer(**config.optimizer.model_dump())
    progress = Progress()
    with (
        _run_log(record),
        screen.cell(cell.title, steps) as bar,
        tracker.start(config, content, cell.signature, cell.title) as tracked,
    ):
        log.info("%s: %s", cell.title, setup.hardware.name)
        try:
            if saved := checkpoint.load(record, opt, optimizer):
                progress = Progress(**saved)
                screen.say(f"{cell.title}: goes on from step {progress.step} of {steps}")
            else:
                record.metrics.unlink(missing_ok=True)

            def report(row: dict[str, object]) -> None:
                record.append_metrics(row)
                tracked.log(row)
                bar.report(row)

            train(setup, optimizer, config, record, progress, report, bar.show, stop)
            result = _result(cell, "finished", progress, setup)
            checkpoint.save(record, opt, optimizer, vars(progress))
        except Diverged as error:
            result = _result(cell, "diverged", progress, setup, str(error))
        except Interrupted as error:
            result = _result(cell, "interrupted", progress, setup, str(error))
            record.write_result(result)
            tracked.finish(result)
            raise
        except Exception as error:
            log.error("%s", traceback.format_exc())
            result = _result(cell, "failed", progress, setup, _reason(error))
        record.write_result(result)
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
        error=error,
        steps=progress.step,
        test_error=progress.test_error,
        best_test_error=progress.best_test_error,
        train_loss=progress.train_loss,
        energy_start=progress.energy_start,
        energy_end=progress.energy_end,
        orthogonality_error=progress.orthogonality_error,
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
    handler = logging.FileHandler(record.log)
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
        handler.close()
