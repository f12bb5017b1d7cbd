"""The runs of a sweep on this machine: one worker process a slot, each taking the next run.

A worker that is killed takes its own run with it and no other: that is tried again in a new
worker, where it goes on from its checkpoint.
"""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from opt_runner.console.screen import Screen
from opt_runner.dispatch.process import Worker, WorkerEnded
from opt_runner.dispatch.slots import Slot
from opt_runner.dispatch.tries import Tries
from opt_runner.dispatch.worker import Job
from opt_runner.run.execute import give_up
from opt_runner.run.interrupt import STOPPING, Interrupted, answered
from opt_runner.run.run import Run
from opt_runner.sweep.source import Source


class Pool:
    """folder: for the workers' logs (`slot-N.log`) and how far they are (`slot-N.json`).
    retries: how often a run is tried again whose worker died."""

    def __init__(self, slots: Sequence[Slot], folder: Path, screen: Screen, retries: int) -> None:
        self.slots = slots
        self.folder = folder
        self.screen = screen
        self.retries = retries
        self._workers: dict[Slot, Worker] = {}
        self._stop: Interrupted | None = None

    def execute(self, source: Source) -> None:
        """Returns when all runs of the source have ended, each with its result on disk.

        Raises Interrupted where a signal asks to stop, after the workers have ended.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._signals(), ThreadPoolExecutor(len(self.slots)) as servers:
            for served in [servers.submit(self._serve, slot, source) for slot in self.slots]:
                served.result()
        if self._stop is not None:
            raise self._stop

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Within the block the first signal has every worker save and end; the next kills them."""

        def hand_on(signum: int, frame: FrameType | None) -> None:
            again = self._stop is not None
            self._stop = self._stop or Interrupted(signum)
            for worker in list(self._workers.values()):
                worker.signal(signal.SIGKILL if again else signum)
            if not again:
                self.screen.say(f"{self._stop}: saving what runs; once more ends it at once")

        with answered(dict.fromkeys(STOPPING, hand_on)):
            yield

    def _serve(self, slot: Slot, source: Source) -> None:
        """Take runs until there are none."""
        while self._stop is None and (run := source.take()) is not None:
            self._execute(run, slot)
            if self._stop is None:
                source.ended(run)
        self._end(slot)

    def _execute(self, run: Run, slot: Slot) -> None:
        tries = Tries(run, run.record, self.retries)
        status = self.folder / f"slot-{slot.number}.json"
        while self._stop is None:
            worker = self._workers.get(slot) or self._start(slot)
            try:
                failure = worker.execute(Job.of(tries.run, self.screen, status))
            except WorkerEnded as error:
                self._end(slot)
                status.unlink(missing_ok=True)
                if self._stop is not None:
                    return
                failure = tries.end(str(error))
                if tries.left:
                    self.screen.fail(f"{run.title}: {failure}")
                    continue
            if failure is not None:
                give_up(tries.run, failure, self.screen)
            return

    def _start(self, slot: Slot) -> Worker:
        worker = Worker(slot.environment, self.folder / f"slot-{slot.number}.log")
        self._workers[slot] = worker
        if self._stop is not None:  # it came before the worker was known
            worker.signal(self._stop.signum)
        return worker

    def _end(self, slot: Slot) -> None:
        if worker := self._workers.pop(slot, None):
            worker.close()
