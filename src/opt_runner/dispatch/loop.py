"""The loop that executes the runs of a sweep: take, submit, poll, retry, give up, stop.

It is the same for every launcher. A backend only starts runs and says how they ended.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, ClassVar, Self

from pydantic import Field

from opt_runner.config.options import Options
from opt_runner.config.schema import Config, Hardware
from opt_runner.console.screen import Screen
from opt_runner.dispatch.worker import status_file
from opt_runner.run.execute import give_up
from opt_runner.run.interrupt import STOPPING, Interrupted, answered
from opt_runner.run.run import Run
from opt_runner.sweep.sweep import Source, Sweep

LOOK_SECONDS = 0.25  # between two checks for signals


@dataclass(eq=False)
class Task:
    """A run between its take from the source and its end.

    run: as the next try executes it. taken: as the source returned it. tries: the failed ones.
    """

    run: Run
    taken: Run
    tries: int = 0

    def start_over(self, screen: Screen) -> bool:
        """Set the old record of a run with `rerun` aside, once: later tries resume the new record.

        Returns False, and does nothing, if another process has the run.
        """
        record, config = self.run.record, self.run.config
        if not config.rerun:
            return True
        if record.is_held():
            return False
        with record.held(lambda holder: None):
            aside = record.set_aside()
        if aside:
            screen.say(f"{self.run.title}: the old record is kept in {aside}")
        self.run = replace(self.run, config=config.model_copy(update={"rerun": False}))
        return True


@dataclass(frozen=True)
class Died:
    """The death of a worker. how: as `was killed by SIGKILL`. details: more lines."""

    how: str
    details: str = ""


# The end of a try. None: the run's result is on disk, or another process has the run. str: a
# failure that the worker could not record.
End = None | str | Died


class Backend(ABC):
    """A starter of the runs of one sweep, which says how they ended; a context manager."""

    options: "LauncherOptions"

    def __init__(self, options: "LauncherOptions", sweep: Sweep, screen: Screen) -> None:
        self.options = options
        self.sweep = sweep
        self.screen = screen

    def __enter__(self) -> Self:
        self.sweep.folder.mkdir(parents=True, exist_ok=True)
        return self

    @abstractmethod
    def __exit__(self, *error: object) -> None: ...

    @abstractmethod
    def submit(self, tasks: Sequence[Task]) -> list[Task]:
        """Start these runs. Return the ones for which there is no room now."""

    @abstractmethod
    def poll(self) -> list[tuple[Task, End]]:
        """Return the runs that have ended; wait up to LOOK_SECONDS for the first one."""

    @abstractmethod
    def stop(self, interrupted: Interrupted, again: bool) -> None:
        """Ask the runs to save and end; the second time (`again`) kill them.

        Raises `interrupted` if the runs go on without this process.
        """


class LauncherOptions(Options):
    """Options of a launcher, and their effect on runs.

    here: the runs are executed on this machine, so that their device is known beforehand.
    """

    where = "hydra.launcher"
    backend: ClassVar[type[Backend]]

    retries: Annotated[int, Field(ge=0)]

    @property
    def here(self) -> bool:
        return True

    def connect(self) -> None:
        """Prepare for composing runs. Raises UserError if there is nothing to launch with."""

    def placed(self, config: Config) -> Config:
        """Return the config of a run with the device that it gets from this launcher."""
        return config

    @abstractmethod
    def at_once(self, hardware: Hardware) -> int | None:
        """Return the number of runs with this hardware that fit at once; None: no limit."""

    def check_search(self) -> None:
        """Raise UserError if these options do not allow runs that depend on earlier results."""

    def prepare(self, sweep: Sweep, screen: Screen) -> None:
        """Act before a sweep, also if all its runs have finished."""


def dispatch(source: Source, backend: Backend, at_once: int) -> None:
    """Execute all runs of the source, at most `at_once` at a time.

    Returns when each run has ended and has its result on disk, except runs that somebody cancelled.
    Raises Interrupted after SIGINT or SIGTERM, when the runs have ended.
    """
    waiting: list[Task] = []
    running = handled = 0
    look = True  # a run has ended, so the source may have another one
    signals: list[int] = []
    with answered(dict.fromkeys(STOPPING, lambda signum, _: signals.append(signum))), backend:
        while True:
            for signum in signals[handled:]:
                interrupted = Interrupted(signum)
                backend.stop(interrupted, again=handled > 0)
                if handled == 0:
                    backend.screen.say(
                        f"{interrupted}: the runs save and end; send the signal again to kill them"
                    )
                handled += 1
            if not handled:
                if look:
                    free = at_once - running - len(waiting)
                    waiting += [Task(run, run) for run in islice(iter(source.take, None), free)]
                left = backend.submit(waiting) if waiting else []
                running += len(waiting) - len(left)
                waiting = left
            if not running and (handled or not waiting):
                break
            ended = backend.poll()
            running -= len(ended)
            look = bool(ended)
            for task, end in ended:
                if _is_tried_again(task, end, backend, stopping=bool(signals)):
                    waiting.append(task)
                elif not signals:
                    source.ended(task.taken)
        if handled:
            raise Interrupted(signals[0])


def _is_tried_again(task: Task, end: End, backend: Backend, stopping: bool) -> bool:
    """Return True if the run is retried; otherwise record its failure."""
    if isinstance(end, Died):
        status_file(task.run, backend.sweep).unlink(missing_ok=True)
        if stopping:
            return False
        task.tries += 1
        reason = f"its worker {end.how}"
        if task.tries <= backend.options.retries:
            backend.screen.fail(f"{task.run.title}: {reason}: it is retried{end.details}")
            return True
        tried = f", in each of {task.tries} tries" if task.tries > 1 else ""
        end = f"{reason}{tried}{end.details}"
    if end is not None:
        give_up(task.run, end, backend.screen)
    return False
