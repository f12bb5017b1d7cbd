"""The processes that train one run together: collectives, and errors that end all of them.

torchrun, or srun, starts N copies of one command. Each holds the whole state and takes its part of
every batch. A run in one process is `ALONE`.
"""

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from opt_runner.config.schema import Hardware
from opt_runner.errors import Elsewhere, UserError, first_line, in_words
from opt_runner.run.interrupt import STOPPING, Interrupted, answered
from opt_runner.run.process import PLACE, started_by_torchrun

T = TypeVar("T")

# The limit for collectives of a step. If a process ends, the others notice its closed connections
# at once; this limit is for a process that hangs or a machine without power.
_STEP_TIMEOUT = timedelta(minutes=10)
# The limit while one process works and the others wait, as for reading data or for a record.
_WAIT_TIMEOUT = timedelta(days=30)
_FAILURE = "opt_runner/failure"  # the store's key for the first failure of a process


@dataclass(eq=False)
class Processes:
    """This process among those that train the run.

    rank: its number, from 0, among `count`. local_rank: its number on this machine.
    restarted: torchrun or Slurm has started the processes again.
    store: shared by the processes; None if there is one.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    restarted: bool = False
    store: Store | None = None

    def __post_init__(self) -> None:
        # A second group for Python values: on CPUs, with the longer limit.
        self._values: Any = None
        if self.store is not None:
            self._values = dist.new_group(backend="gloo", timeout=_WAIT_TIMEOUT)

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # a copy of a network uses the same processes

    @property
    def first(self) -> bool:
        """Return True for the process that has the record and the screen."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.count > 1

    def part(self, size: int) -> slice:
        """Return this process's part of `size` items; parts are equal if `count` divides it."""
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)

    def sum_(self, tensor: Tensor) -> None:
        """Replace a contiguous tensor by its sum over the processes. Raises Elsewhere."""
        if self.several:
            with self._reached():
                dist.all_reduce(tensor)

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace the tensors by their means over the processes. Raises Elsewhere."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        self.sum_(flat)
        means = torch.split(flat / self.count, [tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether one of the processes has it. Raises Elsewhere.

        The flags are exchanged between CPUs, without waiting for a GPU.
        """
        if not self.several:
            return list(flags)
        found = torch.tensor(flags, dtype=torch.uint8)
        with self._reached():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self._values)
        return [bool(flag) for flag in found]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank. Raises Elsewhere."""
        found: list[Any] = [value] * self.count
        if self.several:
            with self._reached():
                dist.all_gather_object(found, value, group=self._values)
        return found

    def share(self, value: T) -> T:
        """Return the first process's value. Raises Elsewhere."""
        found = [value]
        if self.several:
            with self._reached():
                dist.broadcast_object_list(found, src=0, group=self._values)
        return found[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait at the block's end for all processes; if it failed in one, raise in all.

        The first process raises its own error or, with its rank in front, another's. The others
        raise Elsewhere. If the error is Interrupted, all raise Interrupted.
        """
        if not self.several:
            yield
            return
        error: BaseException | None = None
        try:
            yield
        except (Exception, SystemExit, Interrupted) as caught:
            error = caught
        try:
            faults = self.gather(error and _portable(error, self.rank))
        except Elsewhere as gone:
            raise error or gone from None
        fault = next((fault for fault in faults if fault is not None), None)
        if fault is None:
            return
        if isinstance(fault, Interrupted):
            raise fault from error
        if not self.first:
            raise Elsewhere(str(fault)) from error
        raise error or fault

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends, unless another one ended before."""
        if self.store is not None and not isinstance(error, Elsewhere):
            with suppress(RuntimeError):  # the process that holds the store has ended
                self.store.compare_set(_FAILURE, "", str(_portable(error, self.rank)))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn PyTorch's errors of a lost connection into Elsewhere, with the reason if known."""
        try:
            yield
        except RuntimeError as error:
            text = "another process of the run has ended or cannot be reached"
            with suppress(RuntimeError):
                if self.store is not None and self.store.check([_FAILURE]):
                    text = self.store.get(_FAILURE).decode()
            raise Elsewhere(text) from error


ALONE = Processes()


def _portable(error: BaseException, rank: int) -> BaseException:
    """Return the error in a form that can be pickled, with the rank in its message."""
    if isinstance(error, Interrupted):
        return error
    if isinstance(error, UserError):
        return UserError(f"process {rank}: {error}")
    portable = Elsewhere(f"process {rank}: {in_words(error).splitlines()[0]}")
    portable.add_note("".join(traceback.format_exception(error)))
    return portable


@contextmanager
def joined(hardware: Hardware) -> Iterator[Processes]:
    """Connect this process to the others of its run, found as `hardware.processes` says.

    Raises UserError if they do not find each other.
    """
    place = _of_slurm() if hardware.processes == "slurm" else _of_torchrun()
    if place.count == 1:
        yield Processes(restarted=place.restarted)
        return
    on_gpus = hardware.device != "cpu" and torch.cuda.is_available()
    # PyTorch waits in C++, where Python's handlers do not run, so signals end the process.
    in_main_thread = threading.current_thread() is threading.main_thread()
    defaults = dict.fromkeys(STOPPING, signal.SIG_DFL)
    try:
        with answered(defaults) if in_main_thread else nullcontext():
            store, _, _ = next(
                iter(rendezvous(place.url, place.rank, place.count, timeout=_STEP_TIMEOUT))
            )
            store = PrefixStore(f"attempt {place.attempt}", store)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
                store=store,
                rank=place.rank,
                world_size=place.count,
                timeout=_STEP_TIMEOUT,
            )
            processes = Processes(place.rank, place.count, place.local_rank, place.restarted, store)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"process {place.rank} of {place.count} cannot reach the others at {place.address}: "
            f"{first_line(error)}"
        ) from error
    yield processes
    # Not after an error: the others may not come here, and the process's end closes everything.
    dist.destroy_process_group()


@dataclass(frozen=True)
class _Place:
    """The place of this process among the others, and the address where they meet.

    attempt: the same number for all processes; the store may hold values of an earlier attempt.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    address: str = ""
    url: str = "env://"
    restarted: bool = False
    attempt: str = "0"


def _number(name: str, default: str = "", least: int = 0) -> int:
    """Return a whole number of the environment. Raises UserError for anything else."""
    text = os.environ.get(name, default)
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name}={text!r} in the environment: must be a number from {least} on")
    return int(text)


def _of_torchrun() -> _Place:
    """Return the place from torchrun's variables; without them there is one process."""
    if not started_by_torchrun():
        if stray := [name for name in PLACE if name in os.environ]:
            print(
                f"opt-run: {', '.join(stray)} in the environment: ignored, as torchrun sets more "
                "than that; this run trains in one process",
                file=sys.stderr,
            )
        return _Place()
    env = os.environ
    restarts = env.get("TORCHELASTIC_RESTART_COUNT", "0")
    # Each machine's torchrun counts its own restarts, and the processes get a new store.
    one_machine = env.get("GROUP_WORLD_SIZE", "1") == "1"
    return _Place(
        rank=_number("RANK"),
        count=_number("WORLD_SIZE", least=1),
        local_rank=_number("LOCAL_RANK"),
        address=f"{env['MASTER_ADDR']}:{env['MASTER_PORT']}",
        restarted=restarts != "0",
        attempt=restarts if one_machine else "0",
    )


def _of_slurm() -> _Place:
    """Return the place from the variables that srun sets for each task, also under submitit."""
    env = os.environ
    if "SLURM_PROCID" not in env or "SLURM_NTASKS" not in env:
        raise UserError(
            "hardware.processes=slurm: SLURM_PROCID and SLURM_NTASKS are not set; start the "
            "processes with srun, or leave this out"
        )
    # A port for each job, below the range from which Linux gives ports to clients.
    number = 7 * _number("SLURM_JOB_ID", "0") + _number("SLURM_STEP_ID", "0")
    port = env.get("MASTER_PORT", str(20_000 + number % 10_000))
    address = f"{env.get('MASTER_ADDR') or _first_host()}:{port}"
    return _Place(
        rank=_number("SLURM_PROCID"),
        count=_number("SLURM_NTASKS", least=1),
        local_rank=_number("SLURM_LOCALID", "0"),
        address=address,
        url=f"tcp://{address}",
        restarted=_number("SLURM_RESTART_COUNT", "0") > 0,
    )


def _first_host() -> str:
    """Return the name of the machine of rank 0. Raises UserError."""
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    if os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_NNODES", "1")) == "1":
        return "localhost"
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"hardware.processes=slurm: scontrol cannot name the hosts {nodes!r} ({error}); set "
            "MASTER_ADDR to the name of the first"
        ) from error
    return done.stdout.split()[0]
