"""The trials of a search, as a source of runs for a launcher."""

import statistics
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import FrozenTrial, TrialState

from opt_runner.console.screen import Screen
from opt_runner.datasets.data import Measure
from opt_runner.errors import UserError, first_line
from opt_runner.files import CannotWrite
from opt_runner.records.record import Record
from opt_runner.records.search import SearchRecord
from opt_runner.records.search import Trial as TrialRecord
from opt_runner.records.stored import StoredRun
from opt_runner.run.run import Run
from opt_runner.sweep import study
from opt_runner.sweep.space import Space
from opt_runner.sweep.sweep import Sweep

_FAILURES = 5  # failed trials in a row that end a search
_POLL_SECONDS = 1.0


@dataclass(eq=False)
class _Trial:
    """An unfinished trial. Its runs, one for each seed, are executed one after the other.

    resumed: an earlier command began it. reported: the percents of the budget at which the pruner
    has an error of the first run. errors: validation errors of the finished runs.
    """

    trial: optuna.Trial
    runs: Sequence[Run]
    resumed: bool
    reported: set[int]
    errors: list[float] = field(default_factory=list)

    @property
    def run(self) -> Run:
        return self.runs[len(self.errors)]


@dataclass(eq=False)
class Trials:
    """A source that draws a trial when a slot is free, and records its end in the study.

    measure: of the errors. compose: makes a run; raises UserError, or an exception of Hydra or
    OmegaConf, for a mistake.
    stopped: the reason why fewer than `count` trials are drawn.
    expected: the number of runs still to be launched, for other threads.
    """

    study: optuna.Study
    space: Space
    compose: Callable[[Sequence[str]], Run]
    count: int
    seed: int
    sweep: Sweep
    folder: Path
    screen: Screen
    measure: Measure
    stopped: str | None = None

    def __post_init__(self) -> None:
        self._prunes = not isinstance(self.study.pruner, optuna.pruners.NopPruner)
        self._unfinished = deque(study.unfinished(self.study, self.space))
        self._between: deque[_Trial] = deque()  # trials between two of their runs
        self._running: list[_Trial] = []
        self._failures = 0  # in a row
        self._fault: Exception | None = None
        self._on_start: Callable[[Run], None] = lambda run: None
        self._lock = threading.RLock()
        self.expected = self._count_expected()

    @property
    def done(self) -> int:
        """Return the number of trials that need no more runs."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return len(self.study.get_trials(deepcopy=False, states=states))

    @property
    def left(self) -> int:
        return max(0, self.count - self.done)

    @property
    def begun(self) -> int:
        """Return the number of unfinished trials that an earlier command has begun."""
        return min(self.left, len(self._unfinished))

    def execute(self, serve: Callable[[], None], on_start: Callable[[Run], None]) -> None:
        """Let a launcher execute the runs of this source.

        serve: calls the launcher. on_start: called with each run.
        Raises what `serve` raises, and the first error in the launcher's threads.
        """
        self._on_start = on_start
        with self._pruning() if self._prunes else nullcontext():
            serve()
        if self._fault is not None:
            raise self._fault

    def take(self) -> Run | None:
        with self._locked():
            while self.stopped is None and self._fault is None:
                trial = self._next()
                if trial is None:
                    return None
                found = self.sweep.stored(trial.run)
                pruned = self._prunes and trial.resumed and found and found.status == "pruned"
                if pruned or (found and found.result and found.result.settled):
                    self._end_run(trial, found)
                    continue
                self._running.append(trial)
                self._on_start(trial.run)
                return trial.run
        return None

    def ended(self, run: Run) -> None:
        with self._locked():
            trial = next(trial for trial in self._running if trial.run is run)
            self._running.remove(trial)
            self._end_run(trial, self.sweep.stored(run))

    def record(self) -> SearchRecord:
        drawn = filter(study.is_drawn, self.study.get_trials(deepcopy=False))
        trials = [_record(frozen) for frozen in drawn]
        written = dict(self.space.written)
        return SearchRecord(self.sweep.id, written, trials, measure=self.measure)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep the thread that prunes out of the block.

        Errors end the search later, in `execute`, so that the launcher can save its other runs.
        """
        with self._lock:
            try:
                yield
                self.expected = self._count_expected()
            except OSError as error:
                self._fault = self._fault or CannotWrite(self.folder, error)
            except Exception as error:
                self._fault = self._fault or error

    def _next(self) -> _Trial | None:
        """Return the next trial; None if enough of them are done or running."""
        if self._between:
            return self._between.popleft()
        while len(self._running) < self.left and self.stopped is None:
            resumed = bool(self._unfinished)
            if resumed:
                trial = self._unfinished.popleft()
            else:
                trial = study.ask(self.study, self.space, self.seed)
            try:
                runs = [
                    self.compose(self.space.overrides(trial.params, seed))
                    for seed in self.space.seeds
                ]
            except (UserError, HydraException, OmegaConfBaseException) as error:
                self._end_trial(trial, "failed", first_line(error))
                continue
            trial.set_user_attr("runs", [run.signature for run in runs])
            frozen = self.study.get_trials(deepcopy=False)[trial.number]
            return _Trial(trial, runs, resumed, set(frozen.intermediate_values))
        return None

    def _end_run(self, trial: _Trial, found: StoredRun | None) -> None:
        """Record the end of a trial's run; the trial ends, too, unless it has more seeds."""
        result = found.result if found else None
        if found is not None and self._prunes and not trial.errors:
            self._report(trial, found.record)
        if result is None:  # the trial is not over: its point must not be lost
            self.stopped = self.stopped or (
                f"the search stops: a run of trial {trial.trial.number} left no result, as on a "
                "full disk; the same command goes on with it"
            )
            return
        status, reason = "finished", None
        if result.status == "pruned":
            status, reason = "pruned", f"after step {result.steps}"
        elif result.status == "diverged":
            status, reason = "diverged", result.error
        elif result.status != "finished" or result.validation_error is None:
            status, reason = "failed", (result.error or result.status).splitlines()[0]
        else:
            trial.errors.append(result.validation_error)
            if len(trial.errors) < len(trial.runs):
                self._between.append(trial)
                return
        self._end_trial(trial.trial, status, reason, trial.errors)

    def _end_trial(
        self, trial: optuna.Trial, status: str, reason: str | None, errors: Sequence[float] = ()
    ) -> None:
        trial.set_user_attr("status", status)
        trial.set_user_attr("errors", list(errors))
        trial.set_user_attr("reason", reason)
        if status == "finished":
            self.study.tell(trial, statistics.fmean(errors))
        elif status == "diverged":
            self.study.tell(trial, self.measure.worst)  # the sampler learns to stay away from it
        else:  # the sampler does not learn from a failed trial
            state = TrialState.PRUNED if status == "pruned" else TrialState.FAIL
            self.study.tell(trial, state=state)
        record = self.record()
        record.write(self.folder)
        if status == "failed":
            self.screen.fail(f"trial {trial.number}: failed, {reason}; another one replaces it")
            self._failures += 1
            if self._failures == _FAILURES:
                self.stopped = (
                    f"the search stops: {_FAILURES} trials in a row failed, the last one with: "
                    f"{reason}; repair this, then the same command resumes"
                )
            return
        self._failures = 0
        text = f"{status}, {reason}"
        if status == "finished":
            text = self.measure.said("validation", statistics.fmean(errors))
        for best in record.ranked()[:1]:
            text += (
                f" (best: trial {best.number}, {self.measure.value(statistics.fmean(best.errors))})"
            )
        self.screen.say(f"trial {trial.number}: {text}")

    def _count_expected(self) -> int:
        under_way = [*self._between, *self._running]
        seeds = len(self.space.seeds)
        begun = sum(seeds - len(trial.errors) for trial in under_way) - len(self._running)
        return max(0, self.left - len(under_way)) * seeds + begun

    @contextmanager
    def _pruning(self) -> Iterator[None]:
        """Ask runs that fall behind to stop, by a file in their record.

        The first run of a trial decides: its seed is the same in all trials, and the next run
        begins only after it has ended.
        """
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_POLL_SECONDS):
                with self._locked():
                    for trial in self._running:
                        found = None if trial.errors else self.sweep.stored(trial.run)
                        if found is not None and self._report(trial, found.record):
                            found.record.prune.touch()

        thread = threading.Thread(target=watch, name="pruning", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _report(self, trial: _Trial, record: Record) -> bool:
        """Give the pruner new validation errors. Return True if the run should stop.

        The pruner is asked after each error, also if the run has ended: successive halving
        compares runs that it has seen at the same place.
        """
        try:
            rows = record.read_metrics()
        except (OSError, ValueError):  # not there yet, or damaged
            return False
        behind = False
        budget = trial.run.config.budget
        for row in rows:
            done = row["step"] / budget.steps if budget.steps else row["epoch"] / budget.epochs
            percent = int(study.WHOLE * done)
            if "validation_error" in row and percent not in trial.reported:
                trial.trial.report(row["validation_error"], percent)
                trial.reported.add(percent)
                behind |= trial.trial.should_prune()
        return behind


def _record(frozen: FrozenTrial) -> TrialRecord:
    attributes, over = frozen.user_attrs, frozen.state.is_finished()
    return TrialRecord(
        number=frozen.number,
        status=attributes.get("status", "failed") if over else "not finished",
        parameters=frozen.params,
        value=frozen.value if frozen.state == TrialState.COMPLETE else None,
        errors=attributes.get("errors", []),
        runs=attributes.get("runs", []),
        reason=attributes.get("reason"),
    )
