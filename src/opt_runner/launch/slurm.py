"""The runs of a sweep on a Slurm cluster: a job a run, in arrays, submitted by submitit.

What counts is on disk: a run is done when its result is. Which job a run has is kept in its record
(`job.json`), so that the same command finds jobs that still wait or run, and submits no others.
"""

import contextlib
import itertools
import json
import os
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opt_runner.console.screen import Screen, outcome
from opt_runner.errors import UserError
from opt_runner.files import write_whole
from opt_runner.launch import slurm_queue as queue
from opt_runner.launch.slurm_job import RunOfJob
from opt_runner.launch.slurm_options import Options
from opt_runner.launch.source import Source
from opt_runner.launch.tries import Tries
from opt_runner.records.result import Result
from opt_runner.runs.execute import give_up
from opt_runner.runs.run import Run
from opt_runner.runs.sweep import LeftRunning, Sweep

_LOOK_SECONDS = 0.5  # between looks at results
# Between looks at the queue: often at first, then so that a controller does not notice.
_ASK_SECONDS, _ASK_AT_MOST_SECONDS = 2.0, 30.0
_SAY_SECONDS = 30.0
_CLEAN_SECONDS = 10.0


@dataclass(eq=False)
class _Submitted:
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


class Slurm:
    """Submits the runs of one sweep and waits for them."""

    def __init__(self, options: Options, sweep: Sweep, screen: Screen) -> None:
        self.options = options
        self.sweep = sweep
        self.screen = screen
        self._source: Source
        self._at_once = 0
        self._has_room = False  # a run has ended since runs were last taken
        self._known: dict[str, queue.Job] = {}
        self._open: list[_Submitted] = []
        self._ended: list[_Submitted] = []
        self._unsubmitted: list[list[Run]] = []  # arrays that Slurm does not take for now
        self._tries: dict[str, Tries] = {}  # by signature
        self._said: tuple[float, str] = (0.0, "")

    def execute(self, source: Source, at_once: int) -> None:
        """Returns when all runs of the source have ended, each with its result on disk, but for
        those whose job was cancelled.

        Raises LeftRunning with `wait=false`, and UserError where Slurm takes none of the jobs.
        """
        self._source, self._at_once = source, at_once
        with queue.answered():
            self._known = queue.jobs()
        try:
            self._take()
            self._submit()
            if not self.options.wait:
                raise LeftRunning(
                    f"submitted: {self._counts()}; the same command shows what is done, and "
                    f"without hydra.launcher.wait=false waits for the rest{self._how_to_cancel()}"
                )
            self.screen.say(f"slurm: {self._counts()}{self._how_to_cancel()}")
            self._wait()
        except KeyboardInterrupt:
            self.screen.say(f"slurm: the jobs go on: {self._counts()}{self._how_to_cancel()}")
            raise
        self._clean()

    def _take(self) -> None:
        """Take as many runs from the source as may be under way; those without a job are left to
        be submitted."""
        self._has_room = False
        under_way = len(self._open) + sum(len(runs) for runs in self._unsubmitted)
        runs: list[Run] = []
        while under_way + len(runs) < self._at_once and (run := self._source.take()) is not None:
            runs.append(run)
        attached = self._attach(runs)
        new = [run for run in runs if run.signature not in attached]
        for run in new:
            self._start_over(run)
        self._unsubmitted += self._arrays(new)

    def mind_others(self) -> None:
        """Cancel the jobs of the experiment's runs that are not in this grid, or say that they are
        there. Raises UserError where Slurm does not answer."""
        with queue.answered():
            self._known = queue.jobs()
        config = self.sweep.runs[0].config
        mine = {run.record.directory.resolve() for run in self.sweep.runs}
        experiment = Path(config.output_dir) / config.experiment_name
        others = {
            live[0].id: path.parent
            for path in sorted(experiment.glob("*/*/*/*/job.json"))
            if path.parent.resolve() not in mine and (live := self._live(path))
        }
        if not others:
            return
        if not self.options.cancel_others:
            count = f"{len(others)} jobs" if len(others) > 1 else "1 job"
            self.screen.say(
                f"slurm: {count} of {experiment} not in this grid ({_some(others)}); "
                "hydra.launcher.cancel_others=true cancels such jobs"
            )
            return
        with queue.answered():
            queue.cancel(queue.shortest(others, self._known))
        for job_id, directory in others.items():
            self.screen.say(f"slurm: job {job_id} is cancelled: {directory} is not in this grid")

    def _attach(self, runs: Sequence[Run]) -> set[str]:
        """The signatures of those that have a job."""
        found = []
        for run in runs:
            if live := self._live(run.record.job):
                job, log = live
                found.append(_Submitted(run, job.id, job.name, log, _written(run)))
        if found:
            jobs = "1 job" if len(found) == 1 else f"{len(found)} jobs"
            self.screen.say(f"slurm: {jobs} submitted before")
        self._open += found
        return {one.run.signature for one in found}

    def _live(self, path: Path) -> tuple[queue.Job, Path] | None:
        """The job that a job.json names, where it has not ended, and submitit's log of it."""
        try:
            content = json.loads(path.read_text())
            job, log = self._known.get(content["id"]), Path(content["log"])
            # Another cluster has the same ids.
            return (job, log) if job and job.live and job.name == content["name"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _start_over(self, run: Run) -> None:
        """Of `rerun` the part that must happen once, however often the job is requeued."""
        if run.config.rerun:
            with run.record.held(_refuse(run)):
                if aside := run.record.set_aside():
                    self.screen.say(f"{run.title}: the old record is kept in {aside}")

    def _arrays(self, runs: Iterable[Run]) -> Iterator[list[Run]]:
        """Runs that ask Slurm for the same, no more at a time than an array may have."""
        same: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
        for run in runs:
            same[run.config.hardware.device, run.config.hardware.threads].append(run)
        for group in same.values():
            for first in range(0, len(group), self.options.max_array):
                yield group[first : first + self.options.max_array]

    def _submit(self) -> None:
        """Submit what Slurm takes; the rest waits until some of these runs have ended.

        Raises UserError where it takes none and there is nothing to wait for.
        """
        while self._unsubmitted:
            try:
                self._submit_array(self._unsubmitted[0])
            except _Refused as error:
                if not self._open:
                    raise UserError(
                        f"Slurm does not take the jobs: {error}; hydra.launcher.partition, "
                        "account, qos, timeout_min and max_array say what is asked for"
                    ) from error
                count = sum(len(runs) for runs in self._unsubmitted)
                self._say(f"slurm: {count} runs wait for Slurm to take them ({error})")
                return
            self._unsubmitted.pop(0)

    def _submit_array(self, runs: Sequence[Run]) -> None:
        """Raises _Refused."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        self.sweep.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="slurm-", dir=self.sweep.folder)).absolute()
        executor = submitit.AutoExecutor(
            folder=folder, cluster="slurm", slurm_max_num_timeout=self.options.max_num_timeout
        )
        name = self.sweep.id if len(runs) > 1 else f"{self.sweep.id} {runs[0].title}"
        executor.update_parameters(**self.options.of_submitit(runs[0].config, name))
        jobs = [self._job(run) for run in runs]
        try:
            with _signals_later(), _outside_of_jobs():
                for run, job in zip(runs, executor.submit_array(jobs), strict=True):
                    one = _Submitted(run, job.job_id, name, job.paths.stdout, _written(run))
                    self._open.append(one)
                    one.write()
        except (FailedJobError, FailedSubmissionError) as error:
            shutil.rmtree(folder)
            raise _Refused(" ".join(str(error).split())) from error

    def _job(self, run: Run) -> RunOfJob:
        return RunOfJob(
            _started_over(run).config.content, run.command, self.sweep.id, _log(run).absolute(),
            self._status(run).absolute(),
        )  # fmt: skip

    def _status(self, run: Run) -> Path:
        return self.sweep.folder / f"slot-{run.signature}.json"

    def _wait(self) -> None:
        started = asked = time.monotonic()
        while self._open or self._unsubmitted:
            for one in list(self._open):
                if result := one.result():
                    self._tell(one.run, result)
                    self._end(one)
                    self._over(one.run)
            now = time.monotonic()
            if now - asked > min(_ASK_AT_MOST_SECONDS, max(_ASK_SECONDS, (now - started) / 10)):
                self._ask()
                asked = time.monotonic()
            if self._has_room:
                before = len(self._unsubmitted)
                self._take()
                if len(self._unsubmitted) > before:
                    self._submit_or_give_up()
            if self._open or self._unsubmitted:
                time.sleep(_LOOK_SECONDS)

    def _ask(self) -> None:
        """Look at the queue: submit what ended without a result again, and what has waited."""
        try:
            self._known = queue.jobs()
        except queue.NoAnswer as error:
            self._say(f"slurm: no answer ({error}); results are still looked for")
            return
        again = []
        for one in list(self._open):
            job = self._known.get(one.job_id)
            one.missed = 0 if job and job.live else one.missed + 1
            # Its last words may be on their way through a network's file system.
            if one.missed < 2 or one.result():
                continue
            self._end(one)
            if job and job.state == "CANCELLED":
                self.screen.fail(f"{one.run.title}: job {one.job_id} was cancelled")
                self._over(one.run)
                continue
            run = _started_over(one.run)
            first = Tries(run, run.record, self.options.retries)
            tries = self._tries.setdefault(run.signature, first)
            state = f" as {job.state}" if job else ""
            failure = tries.end(f"(job {one.job_id}) ended{state}") + _last_words(one)
            if tries.left:
                again.append(one.run)
                self.screen.fail(f"{one.run.title}: {failure}")
            else:
                give_up(run, failure, self.screen)
                self._over(one.run)
        self._unsubmitted += self._arrays(again)
        self._submit_or_give_up()
        if self._open:
            self._say(f"slurm: {self._counts()}")

    def _submit_or_give_up(self) -> None:
        try:
            self._submit()
        except UserError as error:
            self.screen.fail(str(error))
            given_up = [run for runs in self._unsubmitted for run in runs]
            self._unsubmitted.clear()
            for run in given_up:
                self._over(run)

    def _over(self, run: Run) -> None:
        self._source.ended(run)
        self._has_room = True

    def _end(self, one: _Submitted) -> None:
        self._open.remove(one)
        self._ended.append(one)
        self._status(one.run).unlink(missing_ok=True)

    def _tell(self, run: Run, result: Result) -> None:
        tell = self.screen.say if result.status == "finished" else self.screen.fail
        tell(f"{run.title}: {outcome(result)}")

    def _clean(self) -> None:
        """Remove submitit's files of arrays that have ended."""
        until = time.monotonic() + _CLEAN_SECONDS
        folders = {one.log.parent for one in self._ended if one.result()}
        folders -= {one.log.parent for one in self._ended if not one.result()}
        arrays = {one.log.parent: queue.array_of(one.job_id) for one in self._ended}
        while folders and time.monotonic() < until:
            with contextlib.suppress(queue.NoAnswer):
                self._known = queue.jobs()
                live = {job.array for job in self._known.values() if job.live}
                for folder in [folder for folder in folders if arrays[folder] not in live]:
                    shutil.rmtree(folder, ignore_errors=True)
                    folders.remove(folder)
            time.sleep(_LOOK_SECONDS)

    def _say(self, text: str) -> None:
        """What is new, not too often."""
        said, before = self._said
        if text != before and time.monotonic() - said > _SAY_SECONDS:
            self._said = time.monotonic(), text
            self.screen.say(text)

    def _counts(self) -> str:
        """How many jobs wait and run, as of the last look at the queue."""
        jobs = [self._known.get(one.job_id) for one in self._open]
        waiting = [job for job in jobs if job is None or job.state == "PENDING"]
        reasons = Counter(job.reason for job in waiting if job and job.reason != "None")
        why = ", ".join(reason for reason, _ in reasons.most_common(2))
        parts = [f"{len(jobs) - len(waiting)} running", f"{len(waiting)} queued"]
        if why:
            parts[1] += f" ({why})"
        if rest := sum(len(runs) for runs in self._unsubmitted):
            parts.append(f"{rest} not submitted, as Slurm takes no more now")
        return ", ".join(parts)

    def _how_to_cancel(self) -> str:
        ids = queue.shortest((one.job_id for one in self._open), self._known)
        return f"; to cancel: scancel {' '.join(ids)}" if ids else ""


class _Refused(Exception):
    """sbatch's words."""


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    """A signal in the block counts at its end: jobs that are submitted are written down."""
    from opt_runner.training.interrupt import Interrupted, stop_requests

    with stop_requests() as stop:
        try:
            yield
        finally:
            if stop.signum is not None:
                raise Interrupted(stop.signum)


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


def _started_over(run: Run) -> Run:
    return replace(run, config=run.config.model_copy(update={"rerun": False}))


def _refuse(run: Run) -> Any:
    def refuse(holder: str) -> None:
        raise UserError(
            f"{run.title}: {holder} has it, so that rerun=true cannot start it over: wait or cancel"
        )

    return refuse


def _written(run: Run) -> int | None:
    """When the run's result was written, in ns."""
    try:
        return run.record.result.stat().st_mtime_ns
    except OSError:
        return None


def _log(run: Run) -> Path:
    return run.record.directory / "job.log"


def _last_words(one: _Submitted) -> str:
    """The last lines of what its job wrote, and where."""
    words = ""
    for path in (one.log, _log(one.run)):
        with contextlib.suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()
            if lines:
                words += f"\n  {path}: {lines[-1]}"
    return words


def _some(others: Mapping[str, Path], most: int = 3) -> str:
    names = [f"{job_id} {path.name}" for job_id, path in itertools.islice(others.items(), most)]
    return ", ".join([*names, "..."] if len(others) > most else names)
