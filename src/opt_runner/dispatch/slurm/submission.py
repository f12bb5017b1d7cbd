"""Submit the jobs of runs, and find jobs that an earlier command submitted."""

import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opt_runner.console.screen import Screen
from opt_runner.dispatch.loop import Task
from opt_runner.dispatch.slurm import queue
from opt_runner.dispatch.slurm.job import RunOfJob
from opt_runner.dispatch.slurm.queue import Job
from opt_runner.dispatch.worker import Job as WorkerJob
from opt_runner.errors import UserError, counted
from opt_runner.files import is_locked, locked, write_whole
from opt_runner.records.result import Result
from opt_runner.run.run import Run
from opt_runner.sweep.sweep import Sweep

if TYPE_CHECKING:
    from opt_runner.dispatch.slurm.options import SlurmOptions

_SUBMITTING = "submitting"  # in a submission's folder until all its jobs are in their records


class Refused(Exception):
    """sbatch did not accept the jobs; the text is sbatch's."""


@dataclass(eq=False)
class Submitted:
    """A run and its job.

    log: the file of the job's output until the run's own log is open. before: the time of the run's
    result at submission. missed: consecutive looks at the queue that showed the job as ended.
    """

    task: Task
    job_id: str
    log: Path
    before: int | None
    missed: int = 0

    @property
    def run(self) -> Run:
        return self.task.run

    def result(self) -> Result | None:
        """Return the result that ends the job: a settled one, or the job's own.

        An interrupted run resumes, and a damaged result is computed again.
        """
        written = self.run.record.result_time()
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
        """Return the last line of each of the job's logs, and their paths."""
        words = ""
        for path in (self.log, self.run.record.directory / "job.log"):
            with contextlib.suppress(OSError):
                if lines := path.read_text(errors="replace").splitlines():
                    words += f"\n  {path}: {lines[-1]}"
        return words


def submitted_before(task: Task, known: Mapping[str, Job]) -> Submitted | None:
    """Return the run with its job, if an earlier command submitted one that has not ended."""
    if live := _live_job(task.run.record.job, known):
        job, log = live
        return Submitted(task, job.id, log, task.run.record.result_time())
    return None


def submit(tasks: Sequence[Task], options: "SlurmOptions", sweep: Sweep) -> list[Submitted]:
    """Submit an array of runs with equal resources, and write each job's name into its record.

    Raises Refused or CannotWrite.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir=sweep.folder)).absolute()
    executor = submitit.AutoExecutor(
        folder=folder, cluster="slurm", slurm_max_num_timeout=options.max_num_timeout
    )
    first = tasks[0].run
    name = sweep.id if len(tasks) > 1 else f"{sweep.id} {first.title}"
    executor.update_parameters(**options.of_submitit(first.config, name))
    submitted = []
    # The next command cancels the jobs of a submission that was killed in this block.
    with locked(folder / _SUBMITTING, busy=lambda holder: None):
        try:
            with _outside_of_jobs():
                jobs = executor.submit_array([_work(task.run, sweep) for task in tasks])
        except (FailedJobError, FailedSubmissionError) as error:
            shutil.rmtree(folder)
            raise Refused(" ".join(str(error).split())) from error
        for task, job in zip(tasks, jobs, strict=True):
            record, log = task.run.record, job.paths.stdout
            record.directory.mkdir(parents=True, exist_ok=True)
            content = {"id": job.job_id, "name": name, "log": str(log)}
            write_whole(record.job, json.dumps(content) + "\n")
            submitted.append(Submitted(task, job.job_id, log, task.run.record.result_time()))
        (folder / _SUBMITTING).unlink()
    return submitted


def cancel_orphans(sweep: Sweep, known: Mapping[str, Job], screen: Screen) -> set[str]:
    """Cancel the jobs of submissions that were killed before all jobs were in their records.

    The folder of a submission exists before its jobs, which squeue lists with the script in it.
    Returns the cancelled ids. Raises NoAnswer.
    """
    cancelled = set()
    for mark in sorted(sweep.folder.parent.glob(f"*/slurm-*/{_SUBMITTING}")):
        if is_locked(mark):  # another command is submitting now
            continue
        name = mark.parent.name
        ids = {job.id for job in known.values() if job.live and name in Path(job.script).parts}
        if ids:
            queue.cancel(queue.shortest(ids, known))
            screen.say(
                f"slurm: the command that submitted {' '.join(queue.shortest(ids, known))} was "
                "killed in the middle of it: these jobs are cancelled"
            )
        mark.unlink(missing_ok=True)
        cancelled |= ids
    return cancelled


def tell_others(sweep: Sweep, screen: Screen, cancel: bool) -> None:
    """Name the jobs of the experiment's runs that are not in this grid, or cancel them.

    Raises NoAnswer.
    """
    known = queue.jobs()
    config = sweep.runs[0].config
    mine = {run.record.directory.resolve() for run in sweep.runs}
    experiment = Path(config.output_dir) / config.experiment_name
    others = {
        live[0].id: path.parent
        for path in sorted(experiment.glob("*/*/*/*/job.json"))
        if path.parent.resolve() not in mine and (live := _live_job(path, known))
    }
    if cancel and others:
        queue.cancel(queue.shortest(others, known))
        for job_id, directory in others.items():
            screen.say(f"slurm: job {job_id} is cancelled: {directory} is not in this grid")
    elif others:
        count = counted(len(others), "job")
        some = [f"{job_id} {path.name}" for job_id, path in itertools.islice(others.items(), 3)]
        named = ", ".join([*some, "..."] if len(others) > 3 else some)
        screen.say(
            f"slurm: {count} of {experiment} not in this grid ({named}); "
            "hydra.launcher.cancel_others=true cancels such jobs"
        )


def _live_job(path: Path, known: Mapping[str, Job]) -> tuple[Job, Path] | None:
    """Return the job that a job.json names, if it has not ended, and submitit's log of it."""
    try:
        content = json.loads(path.read_text())
        job, log = known.get(content["id"]), Path(content["log"])
        # Another cluster may have the same ids.
        return (job, log) if job and job.live and job.name == content["name"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _work(run: Run, sweep: Sweep) -> RunOfJob:
    return RunOfJob(WorkerJob.of(run, sweep, quiet=False), run.record.directory.absolute())


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of the job that this process is in, if any, within the block.

    submitit and sbatch would take them for parameters of the new jobs.
    """
    mine = ("SLURM_", "SRUN_", "SUBMITIT_")
    names = [name for name in os.environ if name.startswith(mine) and name != "SLURM_CONF"]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)
