"""The processes that train one run together: sums over them, values for all, errors of any.

torchrun, or srun, starts N copies of one command. Each holds the whole state and takes its part of
every batch; what they need of each other goes through here. A run in one process is `ALONE`.
"""

import os
import subprocess
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from opt_runner.config.schema import Hardware
from opt_runner.errors import Elsewhere, UserError
from opt_runner.run.interrupt import Interrupted
from opt_runner.transfer import send

T = TypeVar("T")

# For what all do at the same step. A process that is gone is noticed at once, by its closed
# connection; only one that hangs, or a machine without power, takes this long.
_STEP_TIMEOUT = timedelta(minutes=10)
# For what one may do while the others wait, as reading data or waiting for a locked record.
_WAIT_TIMEOUT = timedelta(days=30)
_FAILURE = "opt_runner/failure"  # in the store: the first failure of a process


class Processes:
    """rank: this process among `count`, from 0. local_rank: among those of this machine.

    restarted: torchrun has started the processes again, after one of them ended.
    """

    def __init__(
        self,
        rank: int = 0,
        count: int = 1,
        local_rank: int = 0,
        restarted: bool = False,
        store: Store | None = None,
    ) -> None:
        self.rank = rank
        self.count = count
        self.local_rank = local_rank
        self.restarted = restarted
        self._store = store
        # Of the CPU, for values: that of tensors may be the GPUs', and has the shorter timeout.
        self._values: Any = None
        if store is not None:
            self._values = dist.new_group(backend="gloo", timeout=_WAIT_TIMEOUT)

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # a copy of what trains in these processes is in them too

    @property
    def first(self) -> bool:
        """Whether this is the one that writes the record and speaks."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.count > 1

    def part(self, size: int) -> slice:
        """This process's part of `size` things; all parts are equal where `count` divides it."""
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)

    def sum_(self, tensor: Tensor) -> None:
        """Replace a contiguous tensor by its sum over the processes. Raises Elsewhere."""
        if self.several:
            with self._reached():
                dist.all_reduce(tensor)

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace the tensors by their means over the processes, in one all-reduce."""
        if not self.several:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        self.sum_(flat)
        flat /= self.count
        means = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def each(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, (count, ...). Raises Elsewhere."""
        found = [torch.empty_like(tensor) for _ in range(self.count)]
        if not self.several:
            return tensor.unsqueeze(0)
        with self._reached():
            dist.all_gather(found, tensor)
        return torch.stack(found)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank; waits for all. Raises Elsewhere."""
        found: list[Any] = [value] * self.count
        if self.several:
            with self._reached():
                dist.all_gather_object(found, value, group=self._values)
        return found

    def share(self, value: T) -> T:
        """The first process's value. Raises Elsewhere."""
        found = [value]
        if self.several:
            with self._reached():
                dist.broadcast_object_list(found, src=0, group=self._values)
        return found[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """What goes wrong in the block in one process ends the block in all, once all are there.

        The first process raises its own error, or tells of another's; the others raise Elsewhere.
        All raise Interrupted where one does.
        """
        if not self.several:
            yield
            return
        error: Exception | Interrupted | None = None
        try:
            yield
        except (Exception, Interrupted) as caught:
            error = caught
        try:
            faults = self.gather(_Fault.of(error, self.rank) if error else None)
        except Elsewhere:
            raise error or Elsewhere() from None
        fault = next((fault for fault in faults if fault is not None), None)
        if fault is None:
            return
        if fault.signum is not None:
            raise Interrupted(fault.signum) from error
        if not self.first:
            raise Elsewhere(fault.text) from error
        if error is not None:
            raise error
        raise fault.as_error()

    def fail(self, error: BaseException) -> bool:
        """Let the others know why this process leaves; whether it is the one that tells of it."""
        if self._store is None or isinstance(error, Elsewhere):
            return self.first
        fault = _Fault.of(error, self.rank)
        mine = f"{fault.text}\n{fault.details}".encode()
        try:
            before_others = self._store.compare_set(_FAILURE, "", mine.decode()) == mine
        except RuntimeError:  # of a store that is gone
            before_others = True
        return self.first or before_others

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """PyTorch's errors of a connection are another process's failure."""
        try:
            yield
        except RuntimeError as error:
            text, details = "another process of the run has ended or cannot be reached", ""
            with suppress(RuntimeError):
                if self._store is not None and self._store.check([_FAILURE]):
                    text, _, details = self._store.get(_FAILURE).decode().partition("\n")
            raised = Elsewhere(text)
            raised.add_note(details)
            raise raised from error


ALONE = Processes()


@dataclass(frozen=True)
class _Fault:
    """An error as it travels between processes.

    mistake: whether it is a UserError. signum: of Interrupted.
    """

    text: str
    details: str
    mistake: bool
    signum: int | None

    @classmethod
    def of(cls, error: BaseException, rank: int) -> Self:
        mistake = isinstance(error, UserError)
        first_line = (str(error).splitlines() or [""])[0]
        text = str(error) if mistake else f"{type(error).__name__}: {first_line}"
        details = "".join(traceback.format_exception(error))
        signum = error.signum if isinstance(error, Interrupted) else None
        return cls(f"process {rank}: {text}", details, mistake, signum)

    def as_error(self) -> Exception:
        if self.mistake:
            return UserError(self.text)
        error = Elsewhere(self.text)
        error.add_note(self.details)
        return error


class _Copy:
    """A tensor's copy on the CPU, made once the GPU comes to it."""

    def __init__(self, tensor: Tensor) -> None:
        on_gpu = tensor.device.type == "cuda"
        self._tensor = torch.empty_like(tensor, device="cpu", pin_memory=on_gpu)
        self._tensor.copy_(tensor, non_blocking=True)
        self._made = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        if self._made is not None:
            self._made.record()

    def wait(self) -> Tensor:
        if self._made is not None:
            self._made.synchronize()
        return self._tensor


class Poll:
    """Questions put to all processes in every step: the answer is yes where one of them says yes.

    The yeses travel in the step's own all-reduce. On a GPU the answers are those of the step
    before, which is computed by then: no step waits for them.
    """

    def __init__(
        self, processes: Processes, device: torch.device, *questions: Callable[[], bool]
    ) -> None:
        self.questions = questions
        self._several = processes.several
        self._device = device
        self._late = device.type == "cuda"
        self._latest: _Copy | None = None
        self._answers = [False] * len(questions)

    def yeses(self) -> Tensor:
        """This process's answers now, 1 or 0, on the device."""
        answers = torch.tensor([float(question()) for question in self.questions])
        return send(answers, self._device)

    def take(self, yeses: Tensor) -> None:
        """The sums, or means, of all processes' yeses."""
        before, self._latest = self._latest, _Copy(yeses)
        arrived = before if self._late else self._latest
        if arrived is not None:
            self._answers = (arrived.wait() > 0).tolist()

    def forget(self) -> None:
        """No yes that was said before this is heard any more. For all processes at the same step,
        once they have done what was asked for: late answers would have it done twice."""
        self._latest = None
        self._answers = [False] * len(self.questions)

    def answers(self) -> list[bool]:
        if self._several:
            return self._answers
        return [question() for question in self.questions]


@contextmanager
def joined(hardware: Hardware) -> Iterator[Processes]:
    """This process among those of its run, as `hardware.processes` says who started them.

    Raises UserError where they do not find each other.
    """
    place = _of_slurm() if hardware.processes == "slurm" else _of_torchrun()
    if place.count == 1:
        yield Processes(restarted=place.restarted)
        return
    on_gpus = hardware.device != "cpu" and torch.cuda.is_available()
    try:
        store, _, _ = next(
            iter(rendezvous(place.address, place.rank, place.count, timeout=_STEP_TIMEOUT))
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
            f"{str(error).splitlines()[0]}"
        ) from error
    yield processes
    # After an error the others may not come to this: the end of the process closes everything.
    dist.destroy_process_group()


def started_by_torchrun() -> bool:
    """Whether torchrun has started this process and others."""
    return _of_torchrun().count > 1


@dataclass(frozen=True)
class _Place:
    rank: int = 0
    count: int = 1
    local_rank: int = 0
    address: str = ""
    restarted: bool = False
    attempt: str = "0"  # the same for all processes; what an earlier one left in the store is void


def _of_torchrun() -> _Place:
    """By the variables that torchrun sets; without them the process is alone."""
    env = os.environ
    if "RANK" not in env or "WORLD_SIZE" not in env:
        return _Place()
    restarts = env.get("TORCHELASTIC_RESTART_COUNT", "0")
    # With torchrun on several machines each counts its own; there the store is a new one.
    one_machine = env.get("GROUP_WORLD_SIZE", "1") == "1"
    return _Place(
        rank=int(env["RANK"]),
        count=int(env["WORLD_SIZE"]),
        local_rank=int(env.get("LOCAL_RANK", "0")),
        address=f"tcp://{env.get('MASTER_ADDR', 'localhost')}:{env.get('MASTER_PORT', '29500')}",
        restarted=restarts != "0",
        attempt=restarts if one_machine else "0",
    )


def _of_slurm() -> _Place:
    """By the variables that srun sets for each task, under submitit as well."""
    env = os.environ
    if "SLURM_PROCID" not in env or "SLURM_NTASKS" not in env:
        raise UserError(
            "hardware.processes=slurm: SLURM_PROCID and SLURM_NTASKS are not set; start the "
            "processes with srun, or leave this out"
        )
    # A port of the job's own, below those that Linux gives to whoever asks.
    number = 7 * int(env.get("SLURM_JOB_ID", "0")) + int(env.get("SLURM_STEP_ID", "0"))
    port = env.get("MASTER_PORT", str(20_000 + number % 10_000))
    return _Place(
        rank=int(env["SLURM_PROCID"]),
        count=int(env["SLURM_NTASKS"]),
        local_rank=int(env.get("SLURM_LOCALID", "0")),
        address=f"tcp://{env.get('MASTER_ADDR') or _first_host()}:{port}",
        restarted=int(env.get("SLURM_RESTART_COUNT", "0")) > 0,
    )


def _first_host() -> str:
    """The machine of the first process."""
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
            "MASTER_ADDR to that of the first"
        ) from error
    return done.stdout.split()[0]
