"""The backend of `hydra/launcher=slurm`: runs as jobs, whose results are read from disk."""

import contextlib
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

from opt_runner.console.screen import Screen, outcome
from opt_runner.dispatch.loop import Backend, Died, End, Task
from opt_runner.dispatch.slurm import queue
from opt_runner.dispatch.slurm.submission import (
    Refused,
    Submitted,
    cancel_orphans,
    submit,
    submitted_before,
)
from opt_runner.dispatch.worker import status_file
from opt_runner.errors import UserError, counted
from opt_runner.run.interrupt import Interrupted
from opt_runner.sweep.sweep import LeftRunning, Sweep

if TYPE_CHECKING:
    from opt_runner.dispatch.slurm.options import SlurmOptions

_LOOK_SECONDS = 0.5  # between two looks at results
# Between two looks at the queue: short at first, then longer to spare the controller.
_ASK_SECONDS, _ASK_AT_MOST_SECONDS = 2.0, 30.0
_SAY_SECONDS = 30.0
_CLEAN_SECONDS = 10.0


class Jobs(Backend):
    """The jobs of one sweep's runs."""

    options: "SlurmOptions"

    def __init__(self, options: "SlurmOptions", sweep: Sweep, screen: Screen) -> None:
        super().__init__(options, sweep, screen)
        self._known: dict[str, queue.Job] = {}
        self._open: list[Submitted] = []
        self._ended: list[Submitted] = []
        self._lost: set[str] = set()  # signatures of runs whose last job left no result
        self._refused: list[Task] = []  # until the next look at the queue
        self._started: float | None = None
        self._asked = 0.0
        self._said: tuple[float, str] = (0.0, "")

    def __enter__(self) -> Self:
        known = queue.jobs()
        cancelled = cancel_orphans(self.sweep, known, self.screen)
        self._known = {job_id: job for job_id, job in known.items() if job_id not in cancelled}
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._clean()

    def submit(self, tasks: Sequence[Task]) -> list[Task]:
        """Submit the jobs that Slurm accepts; the others wait until some jobs have ended.

        Raises UserError if it accepts none at the start.
        """
        new = self._attach(tasks)
        if self._refused:
            self._refused = new
            return new
        for task in new:
            if not task.start_over(self.screen):
                raise UserError(
                    f"{task.run.title}: another process has it, so that rerun=true cannot start it "
                    "over: wait, or cancel its job"
                )
        for array in _arrays(new, self.options.max_array):
            try:
                self._open += submit(array, self.options, self.sweep)
            except Refused as error:
                submitted = {one.task for one in self._open}
                self._refused = [task for task in new if task not in submitted]
                self._check_that_some_end(str(error))
                break
        return list(self._refused)

    def poll(self) -> list[tuple[Task, End]]:
        if self._started is None:
            self._started = self._asked = time.monotonic()
            if not self.options.wait:
                raise LeftRunning(
                    f"submitted: {self._counts()}; the same command shows what is done, and "
                    f"without hydra.launcher.wait=false waits for the rest{self._how_to_cancel()}"
                )
            self.screen.say(f"slurm: {self._counts()}{self._how_to_cancel()}")
        time.sleep(_LOOK_SECONDS)
        ended: list[tuple[Task, End]] = []
        for one in list(self._open):
            if result := one.result():
                tell = self.screen.say if result.status == "finished" else self.screen.fail
                tell(f"{one.run.title}: {outcome(result)}")
                self._end(one, lost=False)
                ended.append((one.task, None))
        now = time.monotonic()
        pause = max(_ASK_SECONDS, (now - self._started) / 10)
        if now - self._asked > min(_ASK_AT_MOST_SECONDS, pause):
            ended += self._ask()
            self._asked = now
        return ended

    def stop(self, interrupted: Interrupted, again: bool) -> None:
        self.screen.say(f"slurm: the jobs go on: {self._counts()}{self._how_to_cancel()}")
        raise interrupted

    def _attach(self, tasks: Sequence[Task]) -> list[Task]:
        """Take over jobs that an earlier command submitted. Return the runs without a job."""
        found = [one for task in tasks if (one := submitted_before(task, self._known))]
        if found:
            self.screen.say(f"slurm: {counted(len(found), 'job')} submitted before")
        self._open += found
        attached = {one.task for one in found}
        return [task for task in tasks if task not in attached]

    def _check_that_some_end(self, reason: str) -> None:
        """Raise UserError, or later Refused, if no job is left whose end would make room.

        reason: sbatch's words.
        """
        # A job is in the queue for a moment after its run has written a result.
        jobs = (self._known.get(one.job_id) for one in self._ended)
        if self._open or any(job and job.live for job in jobs):
            self._say(f"slurm: {len(self._refused)} runs wait until Slurm accepts them ({reason})")
            return
        raise (Refused if self._ended else UserError)(
            f"Slurm does not accept the jobs: {reason}; hydra.launcher.partition, account, qos, "
            "timeout_min and max_array say what is asked for"
        )

    def _ask(self) -> Iterator[tuple[Task, End]]:
        """Look at the queue for jobs that ended without a result."""
        try:
            self._known = queue.jobs()
        except queue.NoAnswer as error:
            self._say(f"slurm: no answer ({error.reason}); results are still read from disk")
            return
        self._refused = []
        for one in list(self._open):
            job = self._known.get(one.job_id)
            one.missed = 0 if job and job.live else one.missed + 1
            # A network file system may show the result late.
            if one.missed < 2 or one.result():
                continue
            self._end(one, lost=True)
            if job and job.state == "CANCELLED":
                self.screen.fail(f"{one.run.title}: job {one.job_id} was cancelled")
                yield one.task, None
            else:
                state = f" as {job.state}" if job else ""
                yield one.task, Died(f"(job {one.job_id}) ended{state}", one.last_words())
        if self._open:
            self._say(f"slurm: {self._counts()}")

    def _end(self, one: Submitted, lost: bool) -> None:
        self._open.remove(one)
        self._ended.append(one)
        (self._lost.add if lost else self._lost.discard)(one.run.signature)
        status_file(one.run, self.sweep).unlink(missing_ok=True)

    def _clean(self) -> None:
        """Remove submitit's files of arrays that have ended, but not of runs without a result."""
        until = time.monotonic() + _CLEAN_SECONDS
        folders = {one.log.parent: queue.array_of(one.job_id) for one in self._ended}
        for one in self._ended:
            if one.run.signature in self._lost:
                folders.pop(one.log.parent, None)
        while folders and time.monotonic() < until:
            with contextlib.suppress(queue.NoAnswer):
                live = {queue.array_of(job.id) for job in queue.jobs().values() if job.live}
                for folder in [one for one, array in folders.items() if array not in live]:
                    shutil.rmtree(folder, ignore_errors=True)
                    del folders[folder]
            time.sleep(_LOOK_SECONDS)

    def _say(self, text: str) -> None:
        """Show the text if it is new, but not too often."""
        said, before = self._said
        if text != before and time.monotonic() - said > _SAY_SECONDS:
            self._said = time.monotonic(), text
            self.screen.say(text)

    def _counts(self) -> str:
        """Return how many jobs wait and run, as of the last look at the queue."""
        jobs = [self._known.get(one.job_id) for one in self._open]
        waiting = [job for job in jobs if job is None or job.state == "PENDING"]
        reasons = Counter(job.reason for job in waiting if job and job.reason != "None")
        why = ", ".join(reason for reason, _ in reasons.most_common(2))
        text = f"{len(jobs) - len(waiting)} running, {len(waiting)} queued"
        if why:
            text += f" ({why})"
        if self._refused:
            text += f", {len(self._refused)} not submitted, as Slurm accepts no more now"
        return text

    def _how_to_cancel(self) -> str:
        ids = queue.shortest((one.job_id for one in self._open), self._known)
        return f"; to cancel: scancel {' '.join(ids)}" if ids else ""


def _arrays(tasks: Sequence[Task], most: int) -> Iterator[list[Task]]:
    """Yield groups of runs that request the same resources, limited by the size of an array."""
    same: dict[tuple[str, int | None], list[Task]] = defaultdict(list)
    for task in tasks:
        hardware = task.run.config.hardware
        same[hardware.device, hardware.threads].append(task)
    for group in same.values():
        for first in range(0, len(group), most):
            yield group[first : first + most]
