"""Slurm's queue as `squeue` shows it, which needs no accounting.

Slurm forgets a job some minutes after its end (MinJobAge), so an unknown job has ended.
"""

import functools
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from opt_runner.errors import UserError

_TIMEOUT_SECONDS = 60.0
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "TIMEOUT",
}  # fmt: skip


class NoAnswer(UserError):
    """Slurm's controller did not answer, so the state of the jobs is unknown."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Slurm does not answer: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Job:
    """A job in the queue.

    id: `12`, in an array `12_3`. reason: why it waits, as Slurm says. script: its file.
    """

    id: str
    name: str
    state: str
    reason: str
    script: str = ""

    @property
    def live(self) -> bool:
        """Return True if it waits, runs, or will run again."""
        return self.state not in _ENDED


def array_of(job_id: str) -> str:
    """Return 12 for 12_3, and for 12."""
    return job_id.partition("_")[0]


def jobs() -> dict[str, Job]:
    """Return this user's jobs that Slurm knows, by id. Raises NoAnswer."""
    columns = "--format=%i|%T|%r|%j|%o"
    return read(_call("squeue", "--me", "--states=all", "--noheader", "--array", columns))


def read(output: str) -> dict[str, Job]:
    """Return the jobs of lines of id|state|reason|name|script; a name may contain |."""
    found = {}
    for line in output.splitlines():
        job_id, state, reason, rest = line.split("|", 3)
        name, _, script = rest.rpartition("|")
        found[job_id] = Job(job_id, name, state, reason, script)
    return found


def cancel(ids: Iterable[str]) -> None:
    """Cancel these jobs. Raises NoAnswer."""
    _call("scancel", *ids)


@functools.cache
def has_gpus(partition: str | None) -> bool:
    """Return True if a partition, by default Slurm's default one, has GPUs. Raises NoAnswer."""
    chosen = [f"--partition={partition}"] if partition else []
    lines = _call("sinfo", "--noheader", "--format=%P|%G", *chosen).splitlines()
    nodes = [line.split("|", 1) for line in lines]
    return any(
        re.search(r"\bgpu\b", gres)
        for name, gres in nodes
        if partition or name.rstrip().endswith("*")
    )


def shortest(ids: Iterable[str], known: Mapping[str, Job]) -> list[str]:
    """Return the jobs' names for a command: the array's number for all its live jobs."""
    chosen = set(ids)
    spared = {array_of(job.id) for job in known.values() if job.live and job.id not in chosen}
    ordered = sorted(chosen, key=lambda job_id: [int(part) for part in job_id.split("_")])
    names = (one if array_of(one) in spared else array_of(one) for one in ordered)
    return list(dict.fromkeys(names))


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
