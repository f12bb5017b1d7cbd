"""The job of a run: submitted in an array, and known by `job.json` in the run's record."""

import contextlib
import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opt_runner.dispatch.slurm.job import RunOfJob
from opt_runner.dispatch.slurm.options import Options
from opt_runner.dispatch.slurm.queue import Job
from opt_runner.errors import UserError
from opt_runner.files import write_whole
from opt_runner.records.result import Result
from opt_runner.run.run import Run
from opt_runner.sweep.sweep import Sweep


class Refused(Exception):
    """sbatch's words."""


@dataclass(eq=False)
class Submitted:
    """A run and its job. log: where submitit has it write until the run's own log is open.
    before: when the run's result was written, at submission."""

    run: Run
    job_id: str
    name: str
    log: Path
    before: int | None
    missed: int = 0  # looks at the queue in a row that found it ended

    def write(self) -> None:
        """Raises CannotWrite."""
        self.run.record.directory.mkdir(parents=True, exist_ok=True)
        content = {"id": self.job_id, "name": self.name, "log": str(self.log)}
        write_whole(self.run.record.job, json.dumps(content) + "\n")

    def result(self) -> Result | None:
        """The result after which the job does nothing more: a settled one, or one of its own.

        An interrupted run goes on, a damaged result is made anew.
        """
        written = _written(self.run)
        if written is None:
            return None
        try:
            result = self.run.record.read_result()
        except UserError:
            return None
        if result is None or result.status == "interrupted":
            return None
        return result if result.settled or written != self.before else None

    def last_words(self) -> str:
        """The last lines of what the job wrote, and where."""
        words = ""
        for path in (self.log, _log(self.run)):
            with contextlib.suppress(OSError):
                lines = path.read_text(errors="replace").splitlines()
                if lines:
                    words += f"\n  {path}: {lines[-1]}"
        return words


def submitted_before(run: Run, known: Mapping[str, Job]) -> Submitted | None:
    """The run with the job that an earlier command submitted, where that has not ended."""
    if live := live_job(run.record.job, known):
        job, log = live
        return Submitted(run, job.id, job.name, log, _written(run))
    return None


def live_job(path: Path, known: Mapping[str, Job]) -> tuple[Job, Path] | None:
    """The job that a job.json names, where it has not ended, and submitit's log of it."""
    try:
        content = json.loads(path.read_text())
        job, log = known.get(content["id"]), Path(content["log"])
        # Another cluster has the same ids.
        return (job, log) if job and job.live and job.name == content["name"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def arrays(runs: Iterable[Run], most: int) -> Iterator[list[Run]]:
    """Runs that ask Slurm for the same, at most so many in one array."""
    same: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        same[run.config.hardware.device, run.config.hardware.threads].append(run)
    for group in same.values():
        for first in range(0, len(group), most):
            yield group[first : first + most]


def submit(runs: Sequence[Run], options: Options, sweep: Sweep) -> list[Submitted]:
    """Submit an array of runs that ask for the same, and write down their jobs. Raises Refused."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    sweep.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir=sweep.folder)).absolute()
    executor = submitit.AutoExecutor(
        folder=folder, cluster="slurm", slurm_max_num_timeout=options.max_num_timeout
    )
    name = sweep.id if len(runs) > 1 else f"{sweep.id} {runs[0].title}"
    executor.update_parameters(**options.of_submitit(runs[0].config, name))
    try:
        with _outside_of_jobs():
            jobs = executor.submit_array([_work(run, sweep) for run in runs])
    except (FailedJobError, FailedSubmissionError) as error:
        shutil.rmtree(folder)
        raise Refused(" ".join(str(error).split())) from error
    found = []
    for run, job in zip(runs, jobs, strict=True):
        one = Submitted(run, job.job_id, name, job.paths.stdout, _written(run))
        one.write()
        found.append(one)
    return found


def status_file(run: Run, sweep: Sweep) -> Path:
    """Where the job says how far its run is."""
    return sweep.folder / f"slot-{run.signature}.json"


def begun(run: Run) -> Run:
    """The run for a job that goes on from what there is: its old record is out of the way."""
    return replace(run, config=run.config.model_copy(update={"rerun": False}))


def _work(run: Run, sweep: Sweep) -> RunOfJob:
    log, status = _log(run).absolute(), status_file(run, sweep).absolute()
    return RunOfJob(begun(run).config.content, run.command, sweep.id, log, status)


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Where this process is itself in a job, what that asked for is not what its jobs ask for."""
    mine = ("SLURM_", "SRUN_", "SUBMITIT_")
    names = [name for name in os.environ if name.startswith(mine) and name != "SLURM_CONF"]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _written(run: Run) -> int | None:
    """When the run's result was written, in ns."""
    try:
        return run.record.result.stat().st_mtime_ns
    except OSError:
        return None


def _log(run: Run) -> Path:
    return run.record.directory / "job.log"
