"""The runs of a sweep as jobs: submitted, waited for, tried again."""

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from opt_runner.console.screen import Screen, outcome
from opt_runner.dispatch.slurm import queue
from opt_runner.dispatch.slurm.options import Options
from opt_runner.dispatch.slurm.submission import (
    Refused,
    Submitted,
    arrays,
    begun,
    status_file,
    submit,
    submitted_before,
)
from opt_runner.dispatch.tries import Tries
from opt_runner.errors import UserError
from opt_runner.records.result import Result
from opt_runner.run.execute import give_up
from opt_runner.run.run import Run
from opt_runner.sweep.source import Source
from opt_runner.sweep.sweep import LeftRunning, Sweep

_LOOK_SECONDS = 0.5  # between looks at results
# Between looks at the queue: often at first, then so that a controller does not notice.
_ASK_SECONDS, _ASK_AT_MOST_SECONDS = 2.0, 30.0
_SAY_SECONDS = 30.0
_CLEAN_SECONDS = 10.0


class Jobs:
    """Of the runs of one sweep."""

    def __init__(self, options: Options, sweep: Sweep, screen: Screen) -> None:
        self.options = options
        self.sweep = sweep
        self.screen = screen
        self._source: Source
        self._at_once = 0
        self._has_room = False  # a run has ended since runs were last taken
        self._known: dict[str, queue.Job] = {}
        self._open: list[Submitted] = []
        self._ended: list[Submitted] = []
        self._lost: set[str] = set()  # signatures of runs that are given up
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
        self._unsubmitted += arrays(new, self.options.max_array)

    def _attach(self, runs: Sequence[Run]) -> set[str]:
        """The signatures of those that have a job."""
        found = [one for run in runs if (one := submitted_before(run, self._known))]
        if found:
            jobs = "1 job" if len(found) == 1 else f"{len(found)} jobs"
            self.screen.say(f"slurm: {jobs} submitted before")
        self._open += found
        return {one.run.signature for one in found}

    def _start_over(self, run: Run) -> None:
        """Of `rerun` the part that must happen once, however often the job is requeued."""
        if run.config.rerun:
            with run.record.held(partial(_refuse, run)):
                if aside := run.record.set_aside():
                    self.screen.say(f"{run.title}: the old record is kept in {aside}")

    def _submit(self) -> None:
        """Submit what Slurm takes; the rest waits until some of these jobs have ended.

        Raises UserError where it takes none and there is nothing to wait for.
        """
        while self._unsubmitted:
            try:
                with _signals_later():
                    self._open += submit(self._unsubmitted[0], self.options, self.sweep)
                    self._unsubmitted.pop(0)
            except Refused as error:
                if not self._open and not self._any_live():
                    raise UserError(
                        f"Slurm does not take the jobs: {error}; hydra.launcher.partition, "
                        "account, qos, timeout_min and max_array say what is asked for"
                    ) from error
                count = sum(len(runs) for runs in self._unsubmitted)
                self._say(f"slurm: {count} runs wait for Slurm to take them ({error})")
                return

    def _any_live(self) -> bool:
        """A job is on Slurm's list for a moment after its run has left a result."""
        jobs = (self._known.get(one.job_id) for one in self._ended)
        return any(job.live for job in jobs if job)

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
                self._lose(one.run)
                continue
            run = begun(one.run)
            first = Tries(run, run.record, self.options.retries)
            tries = self._tries.setdefault(run.signature, first)
            state = f" as {job.state}" if job else ""
            failure = tries.end(f"(job {one.job_id}) ended{state}") + one.last_words()
            if tries.left:
                again.append(one.run)
                self.screen.fail(f"{one.run.title}: {failure}")
            else:
                give_up(run, failure, self.screen)
                self._lose(one.run)
        self._unsubmitted += arrays(again, self.options.max_array)
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
                self._lose(run)

    def _over(self, run: Run) -> None:
        self._source.ended(run)
        self._has_room = True

    def _lose(self, run: Run) -> None:
        self._lost.add(run.signature)
        self._over(run)

    def _end(self, one: Submitted) -> None:
        self._open.remove(one)
        self._ended.append(one)
        status_file(one.run, self.sweep).unlink(missing_ok=True)

    def _tell(self, run: Run, result: Result) -> None:
        tell = self.screen.say if result.status == "finished" else self.screen.fail
        tell(f"{run.title}: {outcome(result)}")

    def _clean(self) -> None:
        """Remove submitit's files of arrays that have ended, but not what lost runs wrote."""
        until = time.monotonic() + _CLEAN_SECONDS
        folders = {one.log.parent: queue.array_of(one.job_id) for one in self._ended}
        for one in self._ended:
            if one.run.signature in self._lost:
                folders.pop(one.log.parent, None)
        while folders and time.monotonic() < until:
            with contextlib.suppress(queue.NoAnswer):
                self._known = queue.jobs()
                live = {job.array for job in self._known.values() if job.live}
                for folder in [one for one, array in folders.items() if array not in live]:
                    shutil.rmtree(folder, ignore_errors=True)
                    del folders[folder]
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


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    """A signal in the block counts at its end: jobs that are submitted are written down."""
    from opt_runner.run.interrupt import Interrupted, stop_requests

    with stop_requests() as stop:
        try:
            yield
        finally:
            if stop.signum is not None:
                raise Interrupted(stop.signum)


def _refuse(run: Run, holder: str) -> None:
    raise UserError(
        f"{run.title}: {holder} has it, so that rerun=true cannot start it over: wait or cancel"
    )
