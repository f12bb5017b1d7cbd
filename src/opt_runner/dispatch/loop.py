"""The loop that executes the runs of a sweep: take, submit, poll, retry, give up, stop.

It is the same for every launcher. A backend knows only how to start runs and how they ended.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

from opt_runner.config.options import LauncherOptions
from opt_runner.console.screen import Screen
from opt_runner.dispatch.worker import status_file
from opt_runner.run.execute import give_up
from opt_runner.run.interrupt import STOPPING, Interrupted, answered
from opt_runner.run.run import Run
from opt_runner.sweep.source import Source
from opt_runner.sweep.sweep import Sweep

LOOK_SECONDS = 0.25  # between two looks for signals


@dataclass(eq=False)
class Task:
    """A run on its way, from when it is taken from the source until it has ended.

    run: as the next try executes it. taken: as the source gave it. tries: how many have died.
    """

    run: Run
    taken: Run
    tries: int = 0

    def start_over(self, screen: Screen) -> str | None:
        """Set the old record of a run with `rerun` aside, once: later tries resume the new record.

        Returns the process that holds the run, if another does; the record is then as it was.
        """
        if not self.run.config.rerun:
            return None
        try:
            with self.run.record.held(_raise):
                aside = self.run.record.set_aside()
        except _Held as holder:
            return str(holder)
        if aside:
            screen.say(f"{self.run.title}: the old record is kept in {aside}")
        config = self.run.config.model_copy(update={"rerun": False})
        self.run = replace(self.run, config=config)
        return None


@dataclass(frozen=True)
class Died:
    """A worker's end without an answer. how: as `was killed by SIGKILL`. details: more lines."""

    how: str
    details: str = ""


# None: the run's result is on disk, or the run is left alone. str: a failure that the worker could
# not record.
End = None | str | Died


class Backend(ABC):
    """Starts the runs of a sweep somewhere, and says how they ended. Ready within its block."""

    options: LauncherOptions

    def __init__(self, options: LauncherOptions, sweep: Sweep, screen: Screen) -> None:
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
        """Start these runs. Return those for which there is no room now."""

    @abstractmethod
    def poll(self) -> list[tuple[Task, End]]:
        """Return the runs that have ended; wait up to LOOK_SECONDS for the first one."""

    @abstractmethod
    def stop(self, interrupted: Interrupted, again: bool) -> None:
        """Have the runs save and end; the second time (`again`) kill them.

        Raises `interrupted` if the runs go on without this process.
        """


def dispatch(source: Source, backend: Backend, at_once: int) -> None:
    """Execute all runs of the source, at most `at_once` at a time.

    Returns once each run has ended and has its result on disk, but for runs that somebody
    cancelled. Raises Interrupted after SIGINT or SIGTERM, once the runs have ended.
    """
    waiting: list[Task] = []
    running = handled = 0
    look = True  # a run has ended, so that the source may have another
    with _signals() as signals, backend:
        while True:
            for signum in signals[handled:]:
                interrupted = Interrupted(signum)
                backend.stop(interrupted, again=handled > 0)
                if handled == 0:
                    backend.screen.say(
                        f"{interrupted}: saving what runs; once more ends it at once"
                    )
                handled += 1
            if not handled:
                if look:
                    waiting += _take(source, at_once - running - len(waiting))
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


def _take(source: Source, most: int) -> Iterator[Task]:
    for _ in range(most):
        if (run := source.take()) is None:
            return
        yield Task(run, run)


def _is_tried_again(task: Task, end: End, backend: Backend, stopping: bool) -> bool:
    """Return True if the run is tried again; record its failure if it is given up."""
    if isinstance(end, Died):
        status_file(task.run, backend.sweep).unlink(missing_ok=True)
        if stopping:
            return False
        task.tries += 1
        reason = f"its worker {end.how}"
        if task.tries <= backend.options.retries:
            backend.screen.fail(f"{task.run.title}: {reason}: it is tried again{end.details}")
            return True
        tried = f", in each of {task.tries} tries" if task.tries > 1 else ""
        end = f"{reason}{tried}{end.details}"
    if end is not None:
        give_up(task.run, end, backend.screen)
    return False


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Within the block SIGINT and SIGTERM do nothing but join this list."""
    received: list[int] = []
    with answered(dict.fromkeys(STOPPING, lambda signum, _: received.append(signum))):
        yield received


class _Held(Exception):
    """Another process has the run."""


def _raise(holder: str) -> None:
    raise _Held(holder)
