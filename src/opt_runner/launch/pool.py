"""The runs of a sweep on this machine: one worker process a slot, each taking the next run.

A worker that is killed takes its own run with it and no other: that is tried once more in a new
worker, where it goes on from its checkpoint.
"""

import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from loky import ProcessPoolExecutor

from opt_runner.console.screen import Screen
from opt_runner.launch import worker
from opt_runner.launch.slots import Slot
from opt_runner.launch.source import Source
from opt_runner.runs.run import Run
from opt_runner.training.interrupt import Interrupted

_RETRIES = 1
_WAIT_SECONDS = 0.1


class Pool:
    """folder: for the workers' logs (`slot-N.log`) and how far they are (`slot-N.json`)."""

    def __init__(self, slots: Sequence[Slot], folder: Path, screen: Screen) -> None:
        self.slots = slots
        self.folder = folder
        self.screen = screen
        self._workers: dict[int, int] = {}  # process by slot
        self._stop: Interrupted | None = None

    def execute(self, source: Source) -> None:
        """Returns when all runs of the source have ended, each with its result on disk.

        Raises Interrupted, or the KeyboardInterrupt of a second signal, after the workers ended.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        servers = [
            threading.Thread(target=self._serve, args=(slot, source), name=f"slot {slot.number}")
            for slot in self.slots
        ]
        for server in servers:
            server.start()
        while True:
            try:
                while any(server.is_alive() for server in servers):
                    for server in servers:
                        server.join(_WAIT_SECONDS)
                break
            except KeyboardInterrupt as error:
                self._interrupt(error)
        if self._stop is not None:
            raise self._stop

    def _interrupt(self, error: KeyboardInterrupt) -> None:
        """The first signal is handed on, so that every worker saves; the second kills them."""
        again = self._stop is not None
        signum = int(getattr(error, "signum", signal.SIGINT))
        self._stop = Interrupted(signum)
        for process in list(self._workers.values()):
            try:
                os.kill(process, signal.SIGKILL if again else signum)
            except ProcessLookupError:
                continue

    def _serve(self, slot: Slot, source: Source) -> None:
        """Take runs until there are none."""
        pool: ProcessPoolExecutor | None = None
        try:
            while self._stop is None and (run := source.take()) is not None:
                for attempt in range(1 + _RETRIES):
                    if pool is None:
                        pool = self._start(slot)
                    try:
                        self._work(pool, slot, run)
                        break
                    except BrokenProcessPool:
                        pool.shutdown(wait=False, kill_workers=True)
                        pool = None
                        if self._stop is not None:
                            return
                        again = ": it is tried once more" if attempt < _RETRIES else ""
                        self.screen.fail(f"{run.title}: its worker was killed{again}")
                if self._stop is None:
                    source.ended(run)
        finally:
            self._workers.pop(slot.number, None)
            if pool is not None:
                pool.shutdown(wait=True)

    def _start(self, slot: Slot) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            max_workers=1,
            initializer=worker.enter,
            initargs=(self.folder / f"slot-{slot.number}.log",),
            env=slot.environment,
        )
        self._workers[slot.number] = pool.submit(os.getpid).result()
        return pool

    def _work(self, pool: ProcessPoolExecutor, slot: Slot, run: Run) -> None:
        status = self.folder / f"slot-{slot.number}.json"
        quiet = self.screen.mode == "none"
        try:
            pool.submit(worker.work, run.config.content, run.command, quiet, status).result()
        except Interrupted as error:
            # By a signal to the worker alone, that too ends the sweep.
            self._stop = self._stop or error
        except BrokenProcessPool:
            raise
        except Exception as error:
            self.screen.fail(f"{run.title}: {type(error).__name__}: {error}")
