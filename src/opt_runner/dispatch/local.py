"""Runs side by side on this machine, in worker processes with a GPU or some cores each."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated

from pydantic import Field

from opt_runner.config.schema import Hardware
from opt_runner.console.screen import Screen
from opt_runner.dispatch.loop import LOOK_SECONDS, Backend, Died, End, LauncherOptions, Task
from opt_runner.dispatch.worker import Job, thread_variables
from opt_runner.files import remove_link
from opt_runner.machine import available_cores, threads_of_environment, visible_gpus
from opt_runner.run.device import default_threads
from opt_runner.run.interrupt import STOPPING, Interrupted
from opt_runner.sweep.sweep import Sweep


@dataclass(frozen=True)
class Slot:
    """Room for one run at a time.

    gpu: as CUDA_VISIBLE_DEVICES names it; None: no GPU.
    cores: the number of cores that the run takes from runs on other hardware.
    """

    number: int
    gpu: str | None
    threads: int
    cores: int

    @property
    def environment(self) -> dict[str, str]:
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return {**thread_variables(self.threads), **gpu}


class Worker:
    """A worker process. environment: added to this process's. log: gets the worker's output."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        # The user's modules are on this process's path.
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from opt_runner.dispatch.worker import serve; serve({os.getpid()})"
        )
        remove_link(log)
        self.connection, its_end = Pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            with its_end, log.open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program],
                    env={**os.environ, **environment},
                    stdin=its_end.fileno(),
                    stdout=output,
                    stderr=output,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def send(self, job: Job) -> None:
        with contextlib.suppress(OSError):  # it has died, which is noticed when its answer is read
            self.connection.send(job)

    def answer(self) -> End:
        try:
            answer: Interrupted | str | None = self.connection.recv()
        except (EOFError, OSError):
            return Died(_how_it_ended(self._process.wait()))
        return Died(f"was stopped by {answer}") if isinstance(answer, Interrupted) else answer

    def signal(self, signum: int) -> None:
        self._process.send_signal(signum)

    def close(self) -> None:
        """Let the process end, and wait for it."""
        self.connection.close()
        self._process.wait()


class Pool(Backend):
    """The backend of `hydra/launcher=pool`.

    A worker executes run after run; if it dies, its run gets a new worker. The sweep's folder holds
    the workers' output (`slot-N.log`) and the progress of their runs (`slot-SIGNATURE.json`).
    """

    options: "PoolOptions"

    def __init__(self, options: "PoolOptions", sweep: Sweep, screen: Screen) -> None:
        super().__init__(options, sweep, screen)
        self._cores = available_cores()
        self._slots: dict[tuple[str, int | None], list[Slot]] = {}  # by device and threads
        self._workers: dict[Slot, Worker] = {}
        self._running: dict[Slot, Task] = {}

    def __exit__(self, *error: object) -> None:
        self.stop(Interrupted(signal.SIGTERM), again=False)  # the workers that an error here leaves
        for worker in self._workers.values():
            worker.connection.close()
        for worker in self._workers.values():
            worker.close()

    def submit(self, tasks: Sequence[Task]) -> list[Task]:
        return [task for task in tasks if not self._start(task)]

    def poll(self) -> list[tuple[Task, End]]:
        ready = wait([self._workers[slot].connection for slot in self._running], LOOK_SECONDS)
        ended = [slot for slot in self._running if self._workers[slot].connection in ready]
        return [(self._running.pop(slot), self._end(slot)) for slot in ended]

    def stop(self, interrupted: Interrupted, again: bool) -> None:
        for slot in self._running:
            self._workers[slot].signal(signal.SIGKILL if again else interrupted.signum)

    def _start(self, task: Task) -> bool:
        """Start the run if a slot is free for it."""
        slots = self._slots_for(task.run.config.hardware)
        free = [slot for slot in slots if slot not in self._running and self._fits(slot, slots)]
        if not free:
            return False
        slot = next((slot for slot in free if slot in self._workers), free[0])
        if slot not in self._workers:
            for idle in self._workers.keys() - self._running.keys() - set(slots):
                self._workers.pop(idle).close()  # an old worker may hold memory of the same GPU
            log = self.sweep.folder / f"slot-{slot.number}.log"
            self._workers[slot] = Worker(slot.environment, log)
        task.start_over(self.screen)  # if another process has the run, the worker waits for it
        self._workers[slot].send(Job.of(task.run, self.sweep, self.screen.mode == "none"))
        self._running[slot] = task
        return True

    def _slots_for(self, hardware: Hardware) -> list[Slot]:
        key = hardware.device, hardware.threads
        if key not in self._slots:
            first = sum(map(len, self._slots.values()))
            self._slots[key] = found = self.options.slots_for(hardware, first)
            if hardware.threads is None and (threads := threads_of_environment()):
                self.screen.say(
                    f"OMP_NUM_THREADS={threads}: each run has so many threads, and up to "
                    f"{len(found)} are executed at once; hardware.threads=N overrides it"
                )
        return self._slots[key]

    def _fits(self, slot: Slot, alike: Sequence[Slot]) -> bool:
        """Return True if runs on other hardware leave room. alike: the slots of this hardware."""
        others = [other for other in self._running if other not in alike]
        if not others:
            return True
        if self.options.slots:
            return len(self._running) < self.options.slots
        taken = sum(other.cores for other in self._running)
        shares_gpu = slot.gpu is not None and any(other.gpu == slot.gpu for other in others)
        return taken + slot.cores <= self._cores and not shares_gpu

    def _end(self, slot: Slot) -> End:
        end = self._workers[slot].answer()
        if isinstance(end, Died):
            self._workers.pop(slot).close()
        return end


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    why = " (by somebody, or as memory ran out)" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{why}"


class PoolOptions(LauncherOptions):
    """The keys of conf/hydra/launcher/pool.yaml, which explains them."""

    backend = Pool

    slots: Annotated[int, Field(gt=0)] | None
    runs_per_gpu: Annotated[int, Field(gt=0)]

    def at_once(self, hardware: Hardware) -> int:
        return len(self.slots_for(hardware))

    def slots_for(self, hardware: Hardware, first: int = 0) -> list[Slot]:
        """Return the slots for runs with this hardware, numbered from `first`.

        With GPUs there are `runs_per_gpu` for each. Without, there are as many as runs with
        `hardware.threads` (by default OMP_NUM_THREADS) fit on the cores, or one if neither is set.
        The option `slots` sets another number; then a run has its share of the cores, unless its
        threads are given.
        """
        cores = available_cores()
        gpus = [] if hardware.device == "cpu" else visible_gpus()
        if hardware.device.startswith("cuda:"):
            gpus = gpus[int(hardware.device.removeprefix("cuda:")) :][:1]
        given = hardware.threads or threads_of_environment()
        places: list[str | None] = [gpu for _ in range(self.runs_per_gpu) for gpu in gpus]
        if not places:
            places = [None] * max(1, cores // (given or cores))
        if self.slots:
            places = [places[i % len(places)] for i in range(self.slots)]
        share = max(1, cores // len(places))
        threads = given or min(share, default_threads())
        return [
            Slot(number, gpu, threads, min(share, threads))
            for number, gpu in enumerate(places, start=first)
        ]
