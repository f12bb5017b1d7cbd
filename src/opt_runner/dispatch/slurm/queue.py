"""Slurm's queue as `squeue` shows it, which needs no accounting.

Slurm forgets a job some minutes after its end (MinJobAge): one that the queue does not know has
ended.
"""

import contextlib
import functools
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from opt_runner.errors import UserError

_TIMEOUT_SECONDS = 60.0
_ENDED = frozenset(
    (
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "PREEMPTED", "TIMEOUT",
    )
)  # fmt: skip


class NoAnswer(Exception):
    """Slurm's controller did not answer: what became of the jobs is not known."""


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Within the block a Slurm that does not answer is told in one line."""
    try:
        yield
    except NoAnswer as error:
        raise UserError(f"Slurm does not answer: {error}") from error


@dataclass(frozen=True)
class Job:
    """id: `12`, of an array `12_3`. reason: why it waits, in Slurm's words."""

    id: str
    name: str
    state: str
    reason: str

    @property
    def live(self) -> bool:
        """It waits, runs, or is to run again."""
        return self.state not in _ENDED

    @property
    def array(self) -> str:
        return array_of(self.id)


def array_of(job_id: str) -> str:
    """12 of 12_3, and of 12."""
    return job_id.partition("_")[0]


def require_slurm() -> None:
    """Raise UserError where Slurm's commands are not there."""
    for command in ("sbatch", "squeue", "srun"):
        if shutil.which(command) is None:
            raise UserError(
                f"hydra/launcher=slurm: {command} is not on PATH: run the command on a machine of "
                "the cluster (a login node)"
            )


def jobs() -> dict[str, Job]:
    """This user's jobs that Slurm knows, by id. Raises NoAnswer."""
    output = _call(
        "squeue", "--me", "--states=all", "--noheader", "--array", "--format=%i|%T|%r|%j"
    )
    return read(output)


def read(output: str) -> dict[str, Job]:
    """Lines of id|state|reason|name."""
    found = {}
    for line in output.splitlines():
        job_id, state, reason, name = line.split("|", 3)
        found[job_id] = Job(job_id, name, state, reason)
    return found


def cancel(ids: Iterable[str]) -> None:
    """Raises NoAnswer."""
    _call("scancel", *ids)


@functools.cache
def has_gpus(partition: str | None) -> bool:
    """Whether a partition, else the default one, has nodes with GPUs. Raises NoAnswer."""
    chosen = [f"--partition={partition}"] if partition else []
    lines = _call("sinfo", "--noheader", "--format=%P|%G", *chosen).splitlines()
    resources = [
        gres for name, gres in (line.split("|", 1) for line in lines)
        if partition or name.rstrip().endswith("*")
    ]  # fmt: skip
    return any(re.search(r"\bgpu\b", gres) for gres in resources)


def shortest(ids: Iterable[str], known: Mapping[str, Job]) -> list[str]:
    """What to call jobs in a command: an array's number where all of it that lives is meant."""
    chosen = set(ids)
    by_array: dict[str, list[str]] = defaultdict(list)
    for job in known.values():
        if job.live:
            by_array[job.array].append(job.id)
    names: list[str] = []
    for job_id in sorted(chosen, key=_number):
        whole = chosen.issuperset(by_array.get(array_of(job_id), [job_id]))
        name = array_of(job_id) if whole else job_id
        if name not in names:
            names.append(name)
    return names


def _number(job_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", job_id))


def _call(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"{command[0]} did not answer within {_TIMEOUT_SECONDS:.0f} s") from error
    if done.returncode:
        raise NoAnswer(" ".join(done.stderr.split()) or f"{command[0]} failed")
    return done.stdout
