"""The runs of a sweep as Ray tasks: on this machine, or on a cluster that is running.

Tasks are tried again here, not by Ray: it would go on for ever with one that runs out of memory.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import ray
from pydantic import Field
from ray import exceptions

from opt_runner.config.options import LauncherOptions
from opt_runner.config.schema import Config, Hardware
from opt_runner.console.screen import Screen
from opt_runner.console.wandb import SWEEP_VARIABLE
from opt_runner.dispatch import worker
from opt_runner.dispatch.slots import thread_variables
from opt_runner.dispatch.tries import Tries
from opt_runner.errors import UserError
from opt_runner.machine import available_cores, visible_gpus
from opt_runner.run.execute import give_up
from opt_runner.run.interrupt import STOPPING, Interrupted, answered
from opt_runner.run.run import Run
from opt_runner.sweep.source import Source
from opt_runner.sweep.sweep import Sweep

_LOOK_SECONDS = 0.5
_KNOCK_SECONDS = 10.0
_OUTPUTS = (1, 2)
_OBJECT_STORE = 80 * 2**20  # bytes, about Ray's least: what tasks exchange here is a config each


class Options(LauncherOptions):
    """The keys of conf/hydra/launcher/ray.yaml, which says what they mean."""

    address: str | None
    gpus_per_run: Annotated[float, Field(ge=0)] | None
    cpus_per_run: Annotated[float, Field(gt=0)] | None
    retries: Annotated[int, Field(ge=0)]
    init: dict[str, Any] | None


@dataclass(frozen=True)
class Resources:
    """Of one run."""

    cpus: float
    gpus: float


def connect(options: Options) -> None:
    """To the cluster that runs at the address, or to one of this machine alone, which starts here
    and ends with this process. Raises UserError where there is none."""
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
    # Which workers died is told here, and by Ray as well, in another form, unless this is off.
    ray._private.worker._worker_logs_enabled = False


def _knock(address: str | None) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray would try for a quarter of an hour."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address or "")
    if found:
        socket.create_connection((found[1], int(found[2])), _KNOCK_SECONDS).close()


def resources(hardware: Hardware, options: Options) -> Resources:
    """What a run gets: a GPU where there are any and `hardware` may use them, and as many cores as
    it has threads, without a number its share of a machine.

    Raises UserError where that contradicts the options.
    """
    nodes = _nodes(options)
    gpus = options.gpus_per_run
    if hardware.device.startswith("cuda:"):
        raise UserError(
            f"hardware.device={hardware.device}: which GPU a run gets is Ray's choice; "
            "use hardware=cuda"
        )
    if hardware.device == "cpu":
        gpus = 0
    elif gpus is None:
        gpus = 1 if hardware.device == "cuda" or any(node.gpus for node in nodes) else 0
    elif gpus == 0 and hardware.device == "cuda":
        raise UserError("hydra.launcher.gpus_per_run=0 gives hardware=cuda no GPU")
    cpus = options.cpus_per_run or hardware.threads
    if cpus is None:
        shares = [node.cpus // max(1, node.gpus // gpus if gpus else 1) for node in nodes]
        cpus = max(1, min((share for share in shares if share), default=1))
    return Resources(cpus, gpus)


def room(hardware: Hardware, options: Options) -> int:
    """How many such runs the machines have room for now."""
    need = resources(hardware, options)
    return sum(
        int(min(node.cpus / need.cpus, node.gpus / need.gpus if need.gpus else math.inf))
        for node in _nodes(options)
    )


def placed(config: Config, options: Options) -> Config:
    """The config with the kind of device that its run gets."""
    gpus = resources(config.hardware, options).gpus
    hardware = config.hardware.model_copy(update={"device": "cuda" if gpus else "cpu"})
    return config.model_copy(update={"hardware": hardware})


def _nodes(options: Options) -> list[Resources]:
    """What the machines have; of a cluster it takes a connection."""
    if options.address is None:
        own = options.init or {}
        gpus = own.get("num_gpus", len(visible_gpus()))
        return [Resources(own.get("num_cpus", available_cores()), gpus)]
    nodes: list[dict[str, Any]] = ray.nodes()
    found = [node["Resources"] for node in nodes if node["Alive"]]
    return [Resources(one.get("CPU", 0), one.get("GPU", 0)) for one in found]


class Tasks:
    """The runs of one sweep, a task each."""

    def __init__(self, options: Options, sweep: Sweep, screen: Screen) -> None:
        self.options = options
        self.sweep = sweep
        self.screen = screen
        self._open: dict[Any, Tries] = {}  # by Ray's reference to the task
        self._signals = 0
        self._stop: Interrupted | None = None

    def execute(self, source: Source, at_once: int) -> None:
        """Returns when all runs of the source have ended, each with its result on disk.

        Raises Interrupted where a signal asks to stop, after the tasks have ended.
        """
        connect(self.options)
        self.sweep.folder.mkdir(parents=True, exist_ok=True)
        self._check_room(self.sweep.runs)
        with self._stopped_by_signals():
            self._take(source, at_once)
            told = 0
            while self._open:
                if told < self._signals:
                    told += 1
                    self._cancel(force=told > 1)
                ended, _ = ray.wait(list(self._open), timeout=_LOOK_SECONDS)
                for task in ended:
                    tries = self._open.pop(task)
                    if self._end(task, tries) and self._stop is None:
                        source.ended(tries.run)
                self._take(source, at_once)
        if self._stop is not None:
            raise self._stop

    def _take(self, source: Source, at_once: int) -> None:
        while self._stop is None and len(self._open) < at_once:
            run = source.take()
            if run is None:
                return
            self._submit(Tries(run, run.record, self.options.retries))

    def _check_room(self, runs: Sequence[Run]) -> None:
        """Ray lets tasks wait for ever that no machine has room for, without a word."""
        nodes = _nodes(self.options)
        for need in {resources(run.config.hardware, self.options) for run in runs}:
            if any(node.cpus >= need.cpus and node.gpus >= need.gpus for node in nodes):
                continue
            text = f"no machine has the {need.cpus:g} cores and {need.gpus:g} GPUs of a run"
            if self.options.address is None:
                raise UserError(
                    f"{text}: change hydra.launcher.cpus_per_run, hydra.launcher.gpus_per_run or "
                    "hardware.threads"
                )
            self.screen.say(f"{text}: runs wait until the cluster has one")

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        def ask(signum: int, frame: FrameType | None) -> None:
            self._signals += 1
            if self._stop is None:
                self._stop = Interrupted(signum)
                self.screen.say(f"{self._stop}: saving what runs; once more ends it at once")

        with answered(dict.fromkeys(STOPPING, ask)):
            yield

    def _cancel(self, force: bool) -> None:
        """Tasks that wait end, those that run save before; `force` kills their workers."""
        for task in self._open:
            ray.cancel(task, force=force)

    def _submit(self, tries: Tries) -> None:
        run = tries.run
        needs = resources(run.config.hardware, self.options)
        place = Place(
            folder=Path.cwd(),
            path=tuple(sys.path),
            environment={
                **thread_variables(run.config.hardware.threads or max(1, int(needs.cpus))),
                SWEEP_VARIABLE: self.sweep.id,
            },
            logs=self.sweep.folder,
        )
        job = worker.Job.of(run, self.screen, self._status(run))
        work = ray.remote(_work).options(
            num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=0, name=run.title
        )
        self._open[work.remote(job, place)] = tries

    def _status(self, run: Run) -> Path:
        return self.sweep.folder / f"slot-{run.signature}.json"

    def _end(self, task: Any, tries: Tries) -> bool:
        """Whether the run is not tried again."""
        try:
            failure: str | None = ray.get(task)
        except exceptions.LocalRayletDiedError:
            raise
        except exceptions.RayError as error:
            self._status(tries.run).unlink(missing_ok=True)
            if self._stop is not None:
                return True
            how = _how_it_ended(error)
            failure = tries.end(how) if how else textwrap.shorten(str(error), 300)
            if how and tries.left:
                self.screen.fail(f"{tries.run.title}: {failure}")
                self._submit(tries)
                return False
        if failure is not None:
            give_up(tries.run, failure, self.screen)
        return True


def _how_it_ended(error: Exception) -> str | None:
    """What became of the worker; None where it is not that which died."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return "was killed as memory ran out"
    if isinstance(error, exceptions.NodeDiedError):
        return "died with its machine"
    if isinstance(error, exceptions.WorkerCrashedError):
        return "died (killed, crashed or out of memory)"
    if isinstance(error, exceptions.TaskCancelledError):
        return "was stopped"
    return None


@dataclass(frozen=True)
class Place:
    """What a worker on any machine takes over from this process. logs: the folder for its log."""

    folder: Path
    path: tuple[str, ...]
    environment: Mapping[str, str]
    logs: Path


def _work(job: worker.Job, place: Place) -> str | None:
    """The task. What was raised, in words, where the run's result is not on disk.

    Ends the process after a signal, which may have come in the middle of an import.
    """
    host = platform.node()
    if not place.folder.is_dir():
        return f"{host} does not see {place.folder}: a cluster needs a disk that its machines share"
    os.chdir(place.folder)
    sys.path += [folder for folder in place.path if folder not in sys.path]
    os.environ.update(place.environment)
    log = place.logs / f"slot-{host}-{os.getpid()}.log"
    with _written_to(log), worker.stop_on_signals() as stop:
        answer = worker.answer(job, stop)
    if isinstance(answer, Interrupted):
        sys.exit(str(answer))
    return answer


@contextmanager
def _written_to(log: Path) -> Iterator[None]:
    """Within the block the process's output goes to `log`; outside Ray writes marks of its own."""
    before = [os.dup(stream) for stream in _OUTPUTS]
    with log.open("ab") as file:
        for stream in _OUTPUTS:
            os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        for stream, former in zip(_OUTPUTS, before, strict=True):
            os.dup2(former, stream)
            os.close(former)
