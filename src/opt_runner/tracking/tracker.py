"""The trackers of a run: they get its rows of metrics and its result, beside the record on disk.

Their errors never end a run.
"""

import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

from opt_runner.config import components
from opt_runner.config.schema import Config, Tracking
from opt_runner.config.titles import title
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError, first_line
from opt_runner.records.record import Record
from opt_runner.records.result import Result
from opt_runner.records.stored import StoredRun
from opt_runner.tracking import wandb

log = logging.getLogger(__name__)


@runtime_checkable
class Tracker(Protocol):
    """A receiver of the rows and the result of one run, made by the class of its `_target_`.

    The class gets its options and, of the parameters below, those that its signature has:

    config: the run's `Config`; `config.content` has plain values.
    title: the run's name. signature: its hash.
    folder: the record's folder, which may hold the tracker's own files.
    rows: the rows before the checkpoint that the run resumes from; no other earlier row counts.
    screen: `screen.say(text)` prints a line.
    """

    def log(self, row: dict[str, Any]) -> None:
        """Take a row of metrics, as metrics.jsonl has it."""

    def finish(self, result: Result | None) -> None:
        """End the tracking. result: None after an error outside of the training."""


class Trackers:
    """All trackers of a run. An error in one ends it with one line, and the run goes on."""

    def __init__(self, screen: Screen) -> None:
        self.failed = False
        self._trackers: dict[str, Tracker] = {}
        self._screen = screen

    def add(self, name: str, make: Callable[[], Tracker]) -> None:
        self._guard(name, lambda: self._trackers.update({name: make()}))

    def log(self, row: dict[str, Any]) -> None:
        for name, tracker in [*self._trackers.items()]:
            self._guard(name, partial(tracker.log, row))

    def finish(self, result: Result | None) -> None:
        for name, tracker in [*self._trackers.items()]:
            self._guard(name, partial(tracker.finish, result))
        self._trackers.clear()

    def _guard(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except (Exception, SystemExit) as error:  # a user's code may call sys.exit
            self.failed = True
            self._trackers.pop(name, None)
            log.info("tracking by %s ends here", name, exc_info=True)  # to run.log alone
            reason = first_line(error)
            self._screen.say(
                f"tracking by {name} failed ({reason}); the record on disk is complete"
            )


@contextmanager
def start(
    config: Config,
    signature: str,
    record: Record,
    screen: Screen,
    rows: list[dict[str, Any]] | None = None,
) -> Iterator[Trackers]:
    """Yield the trackers of one run. If the block raises, they get no result.

    rows: see `Tracker`; None: the record's.
    """
    trackers = Trackers(screen)
    chosen = config.tracking.trackers
    if chosen and rows is None:
        rows = record.read_metrics()
    for name, choice in chosen.items():
        build = partial(
            components.build, choice, f"tracking.{name}", Tracker, config=config,
            signature=signature, title=title(config), folder=record.directory, rows=rows,
            screen=screen,
        )  # fmt: skip
        trackers.add(name, build)
    try:
        yield trackers
    finally:
        trackers.finish(None)


def send(run: StoredRun, config: Config, screen: Screen) -> bool:
    """Send a record that exists to its trackers: its rows, and its result if it has one.

    Returns False if one of them did not take all of it, which the screen then says.
    """
    with start(config, run.signature, run.record, screen, rows=[]) as trackers:
        for row in run.record.read_metrics():
            trackers.log(row)
        if run.result is not None:
            trackers.finish(run.result)
    return not trackers.failed


def check(tracking: Tracking) -> None:
    """Raise UserError if a package is missing, or W&B has to be online without a login."""
    for name in ("tensorboard", "mlflow"):
        if name in tracking.trackers and find_spec(name) is None:
            raise UserError(f"tracking={name} needs a package: pip install {name}")
    wandb.check(tracking)


def hints(tracking: Tracking, output_dir: str) -> list[str]:
    """Return how to look at the runs below `output_dir`, and how to upload those of W&B."""
    found = [wandb.upload_hint(tracking, output_dir)]
    if "tensorboard" in tracking.trackers:
        found.append(f"TensorBoard: tensorboard --logdir {shlex.quote(output_dir)}")
    return [line for line in found if line]
