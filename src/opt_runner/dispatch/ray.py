"""The runs of a sweep as Ray tasks: on this machine, or on a running cluster.

Retries are made here, not by Ray, which would repeat a run that needs too much memory without end.
"""

import logging
import math
import os
import platform
import re
import signal
import socket
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import ray
from pydantic import Field
from ray import exceptions

from opt_runner.config.schema import Config, Hardware
from opt_runner.console.screen import Screen
from opt_runner.dispatch import worker
from opt_runner.dispatch.loop import LOOK_SECONDS, Backend, Died, End, LauncherOptions, Task
from opt_runner.errors import UserError
from opt_runner.machine import available_cores, threads_of_environment, visible_gpus
from opt_runner.run.interrupt import Interrupted, stop_requests
from opt_runner.sweep.sweep import Sweep

_KNOCK_SECONDS = 10.0
_OBJECT_STORE = 80 * 2**20  # bytes, about Ray's minimum: tasks exchange only configs
_DEATHS: dict[type[Exception], str] = {
    exceptions.OutOfMemoryError: "was killed as memory ran out",
    exceptions.NodeDiedError: "died with its machine",
    exceptions.WorkerCrashedError: "died (killed, crashed or out of memory)",
    exceptions.TaskCancelledError: "was stopped",
}


@dataclass(frozen=True)
class Resources:
    """The cores and GPUs that a run needs, or that a machine has."""

    cpus: float
    gpus: float


def connect(options: "RayOptions") -> None:
    """Connect to the cluster at the address.

    Without an address start Ray on this machine; it ends with this process.
    Raises UserError if there is no cluster, or Ray does not start.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ours = {"logging_level": logging.ERROR, "log_to_driver": False}
    if options.address is None:
        ours |= {
            "num_cpus": available_cores(),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE,
        }
    before = signal.getsignal(signal.SIGTERM)
    try:
        _knock(options.address)
        ray.init(options.address or "local", **(ours | (options.init or {})))
    except SystemExit as error:  # Ray's own handler of SIGTERM
        raise Interrupted(signal.SIGTERM) from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        where = f"no Ray cluster at hydra.launcher.address={options.address}"
        what = where if options.address else "Ray does not start on this machine"
        raise UserError(f"{what}: {textwrap.shorten(str(error), 300)}") from error
    finally:
        signal.signal(signal.SIGTERM, before)
    # Deaths of workers are reported here; this stops Ray's own reports of them.
    ray._private.worker._worker_logs_enabled = False


def _knock(address: str | None) -> None:
    """Raise OSError if nobody listens at HOST:PORT: Ray would try for a quarter of an hour."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address or "")
    if found:
        socket.create_connection((found[1], int(found[2])), _KNOCK_SECONDS).close()


class Tasks(Backend):
    """The backend of `hydra/launcher=ray`: a Ray task for each run."""

    options: "RayOptions"

    def __init__(self, options: "RayOptions", sweep: Sweep, screen: Screen) -> None:
        super().__init__(options, sweep, screen)
        self._open: dict[Any, Task] = {}  # by Ray's reference

    def __enter__(self) -> Self:
        connect(self.options)
        self._check_room()
        return super().__enter__()

    def __exit__(self, *error: object) -> None: ...

    def submit(self, tasks: Sequence[Task]) -> list[Task]:
        for task in tasks:
            task.start_over(self.screen)  # if another process has the run, the worker waits for it
            hardware = task.run.config.hardware
            needs = self.options.resources(hardware)
            threads = hardware.threads or threads_of_environment() or max(1, int(needs.cpus))
            job = worker.Job.of(task.run, self.sweep, self.screen.mode == "none")
            work = ray.remote(_work).options(
                num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=0, name=task.run.title
            )
            self._open[work.remote(job, Path.cwd(), sys.path, threads)] = task
        return []

    def poll(self) -> list[tuple[Task, End]]:
        ended, _ = ray.wait(list(self._open), timeout=LOOK_SECONDS)
        return [(self._open.pop(reference), _end(reference)) for reference in ended]

    def stop(self, interrupted: Interrupted, again: bool) -> None:
        for reference in self._open:
            ray.cancel(reference, force=again)

    def _check_room(self) -> None:
        """Report runs for which no machine has room: Ray lets them wait without a message."""
        nodes = self.options.nodes()
        configs = self.sweep.configs
        for need in {self.options.resources(config.hardware) for config in configs}:
            if any(node.cpus >= need.cpus and node.gpus >= need.gpus for node in nodes):
                continue
            text = f"no machine has the {need.cpus:g} cores and {need.gpus:g} GPUs of a run"
            if self.options.address is None:
                raise UserError(
                    f"{text}: change hydra.launcher.cpus_per_run, hydra.launcher.gpus_per_run or "
                    "hardware.threads"
                )
            self.screen.say(f"{text}: runs wait until the cluster has one")


class RayOptions(LauncherOptions):
    """The keys of conf/hydra/launcher/ray.yaml, which explains them."""

    backend = Tasks

    address: str | None
    gpus_per_run: Annotated[float, Field(ge=0)] | None
    cpus_per_run: Annotated[float, Field(gt=0)] | None
    init: dict[str, Any] | None

    @property
    def here(self) -> bool:
        return self.address is None

    def connect(self) -> None:
        if not self.here:  # the resources of a run depend on the cluster
            connect(self)

    def placed(self, config: Config) -> Config:
        device = "cuda" if self.resources(config.hardware).gpus else "cpu"
        hardware = config.hardware.model_copy(update={"device": device})
        return config.model_copy(update={"hardware": hardware})

    def at_once(self, hardware: Hardware) -> int | None:
        need = self.resources(hardware)
        room = sum(
            int(min(node.cpus / need.cpus, node.gpus / need.gpus if need.gpus else math.inf))
            for node in self.nodes()
        )
        return room or None

    def resources(self, hardware: Hardware) -> Resources:
        """Return the resources of a run: a GPU if it may use one, and a core for each thread.

        Without a number of threads it gets its share of a machine's cores.
        Raises UserError if this contradicts the options.
        """
        gpus = self.gpus_per_run
        if hardware.device.startswith("cuda:"):
            raise UserError(
                f"hardware.device={hardware.device}: which GPU a run gets is Ray's choice; "
                "use hardware=cuda"
            )
        if hardware.device == "cpu":
            gpus = 0
        elif gpus is None:
            gpus = int(hardware.device == "cuda" or any(node.gpus for node in self.nodes()))
        elif gpus == 0 and hardware.device == "cuda":
            raise UserError("hydra.launcher.gpus_per_run=0 gives hardware=cuda no GPU")
        cpus = self.cpus_per_run or hardware.threads or threads_of_environment()
        if cpus is None:
            nodes = self.nodes()
            shares = [node.cpus // max(1, node.gpus // gpus if gpus else 1) for node in nodes]
            cpus = max(1, min((share for share in shares if share), default=1))
        return Resources(cpus, gpus)

    def nodes(self) -> list[Resources]:
        """Return the resources of each machine. The cluster must be connected."""
        if self.here:
            own = self.init or {}
            gpus = own.get("num_gpus", len(visible_gpus()))
            return [Resources(own.get("num_cpus", available_cores()), gpus)]
        found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return [Resources(has.get("CPU", 0), has.get("GPU", 0)) for has in found]


def _end(reference: Any) -> End:
    try:
        end: End = ray.get(reference)
    except exceptions.LocalRayletDiedError:
        raise
    except exceptions.RayError as error:
        for kind, how in _DEATHS.items():
            if isinstance(error, kind):
                return Died(how)
        return textwrap.shorten(str(error), 300)
    return end


def _work(job: worker.Job, folder: Path, path: Sequence[str], threads: int) -> str | None:
    """Execute one run as a Ray task; return the error in words if it could not be recorded.

    folder, path: the launcher's. A signal ends the process, as it may have come during an import.
    """
    host = platform.node()
    if not folder.is_dir():
        return f"{host} does not see {folder}: a cluster needs a disk that all machines share"
    os.chdir(folder)
    sys.path += [entry for entry in path if entry not in sys.path]
    os.environ.update(worker.thread_variables(threads))
    log = job.status.parent / f"slot-{host}-{os.getpid()}.log"
    with _output_to(log), stop_requests(once=False) as stop:
        answer = worker.answer(job, stop)
    if isinstance(answer, Interrupted):
        sys.exit(str(answer))
    return answer


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Send the process's output to `log` within the block; Ray writes its own marks after it."""
    before = [os.dup(stream) for stream in worker.OUTPUTS]
    worker.append_output_to(log)
    try:
        yield
    finally:
        for stream, former in zip(worker.OUTPUTS, before, strict=True):
            os.dup2(former, stream)
            os.close(former)
