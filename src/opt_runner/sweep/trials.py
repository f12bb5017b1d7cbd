"""The trials of a search, as a launcher's source of runs."""

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
from opt_runner.errors import UserError
from opt_runner.files import CannotWrite
from opt_runner.records.record import Record
from opt_runner.records.search import SearchRecord
from opt_runner.records.search import Trial as TrialRecord
from opt_runner.records.stored import StoredRun
from opt_runner.run.run import Run
from opt_runner.sweep import study
from opt_runner.sweep.space import Space
from opt_runner.sweep.sweep import Sweep

# The value, in percent, of a trial that diverged: the sampler learns to stay away from it.
_WORST = 100.0
_FAILURES = 5  # in a row, that end a search
_POLL_SECONDS = 1.0


@dataclass
class _Trial:
    """A trial under way: its runs, one a seed, go one after the other.

    errors: the validation errors of the runs that have finished. told: percent of the first run's
    budget that the pruner has heard of. resumed: an earlier command began it.
    """

    trial: optuna.Trial
    runs: Sequence[Run]
    resumed: bool
    told: set[int]
    errors: list[float] = field(default_factory=list)

    @property
    def run(self) -> Run:
        return self.runs[len(self.errors)]


class Trials:
    """Draws a trial when a slot is free, and tells the study how it ended.

    make: composes a run; raises UserError, and Hydra's and OmegaConf's exceptions, for a mistake.
    label: of the search, where there are several.
    stopped: why no more trials are drawn, where that is so before there are `count` of them.
    """

    def __init__(
        self,
        journal: optuna.Study,
        space: Space,
        make: Callable[[Sequence[str]], Run],
        count: int,
        seed: int,
        sweep: Sweep,
        folder: Path,
        screen: Screen,
        label: str = "",
    ) -> None:
        self.study = journal
        self.space = space
        self.make = make
        self.count = count
        self.seed = seed
        self.sweep = sweep
        self.folder = folder
        self.screen = screen
        self.label = label
        self._said = f"{label}: trial" if label else "trial"
        self.stopped: str | None = None
        self.to_come = 0  # runs that are still to be launched
        self._prunes = not isinstance(journal.pruner, optuna.pruners.NopPruner)
        self._cut_off = deque(study.cut_off(journal, space.distributions))
        self._between: deque[_Trial] = deque()  # trials between two of their runs
        self._running: list[tuple[Run, _Trial]] = []
        self._failures = 0  # in a row
        self._fault: Exception | None = None
        self._begin: Callable[[Run], None]
        self._lock = threading.RLock()
        self._count_to_come()

    @property
    def settled(self) -> int:
        return len(study.of_state(self.study, TrialState.COMPLETE, TrialState.PRUNED))

    @property
    def left(self) -> int:
        return max(0, self.count - self.settled)

    @property
    def begun(self) -> int:
        """How many of those that are left an earlier command has begun."""
        return min(self.left, len(self._cut_off))

    def execute(self, serve: Callable[[], None], begin: Callable[[Run], None]) -> None:
        """serve: has a launcher execute the runs of this source. begin: is told of each of them.

        Raises what `serve` raises, and what went wrong in one of the launcher's threads.
        """
        self._begin = begin
        with self._pruning() if self._prunes else nullcontext():
            serve()
        if self._fault is not None:
            raise self._fault

    def take(self) -> Run | None:
        with self._whole():
            while self.stopped is None and self._fault is None:
                trial = self._next()
                if trial is None:
                    return None
                found = self.sweep.stored(trial.run)
                if found is not None and self._is_over(trial, found):
                    self._take_in(trial, found)
                    continue
                self._running.append((trial.run, trial))
                self._count_to_come()
                self._begin(trial.run)
                return trial.run
        return None

    def ended(self, run: Run) -> None:
        with self._whole():
            trial = next(trial for one, trial in self._running if one is run)
            self._running = [(one, other) for one, other in self._running if one is not run]
            self._take_in(trial, self.sweep.stored(run))
            self._count_to_come()

    def record(self) -> SearchRecord:
        log = [key for key, one in self.space.distributions.items() if getattr(one, "log", False)]
        trials = [_stored(frozen) for frozen in self.study.get_trials(deepcopy=False)]
        return SearchRecord(self.sweep.id, self.space.written, log, trials, self.label)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """One thread at a time. What goes wrong ends the search, in its main thread."""
        with self._lock:
            try:
                yield
            except OSError as error:
                self._fault = self._fault or CannotWrite(self.folder, error)
            except Exception as error:
                self._fault = self._fault or error

    def _next(self) -> _Trial | None:
        """The trial whose turn it is; None where enough of them are settled or under way."""
        if self._between:
            return self._between.popleft()
        while len(self._running) < self.left and self.stopped is None:
            resumed = bool(self._cut_off)
            trial = (
                self._cut_off.popleft()
                if resumed
                else study.ask(self.study, self.space.distributions, self.seed)
            )
            try:
                runs = [
                    self.make(self.space.overrides(trial.params, seed)) for seed in self.space.seeds
                ]
            except (UserError, HydraException, OmegaConfBaseException) as error:
                self._fail(trial, str(error))
                continue
            trial.set_user_attr("runs", [run.signature for run in runs])
            told = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values.keys()
            return _Trial(trial, runs, resumed, set(told))
        return None

    def _is_over(self, trial: _Trial, found: StoredRun) -> bool:
        """Whether the trial's run need not be executed."""
        pruned = self._prunes and trial.resumed and found.status == "pruned"
        return pruned or (found.result is not None and found.result.settled)

    def _take_in(self, trial: _Trial, found: StoredRun | None) -> None:
        result = found.result if found else None
        if found is not None and self._prunes and not trial.errors:
            self._report(trial, found.record)
        if result is None:
            self._fail(trial.trial, "its run left no result")
        elif result.status == "pruned":
            self._finish(trial, "pruned", f"after step {result.steps}")
        elif result.status == "diverged":
            self._finish(trial, "diverged", result.error)
        elif result.status != "finished" or result.validation_error is None:
            self._fail(trial.trial, result.error or result.status)
        else:
            trial.errors.append(result.validation_error)
            if len(trial.errors) < len(trial.runs):
                self._between.append(trial)
            else:
                self._finish(trial, "finished")

    def _finish(self, trial: _Trial, status: str, reason: str | None = None) -> None:
        one, text = trial.trial, f"{status}, {reason}"
        one.set_user_attr("status", status)
        one.set_user_attr("errors", trial.errors)
        one.set_user_attr("reason", reason)
        if status == "pruned":
            self.study.tell(one, state=TrialState.PRUNED)
        elif status == "diverged":
            self.study.tell(one, _WORST)
        else:
            mean = statistics.fmean(trial.errors)
            self.study.tell(one, mean)
            text = f"validation error {mean:.2f}%"
        self._failures = 0
        record = self.record()
        record.write(self.folder)
        ranked = record.ranked()
        best = f" (best: trial {ranked[0].number}, {ranked[0].value:.2f}%)" if ranked else ""
        self.screen.say(f"{self._said} {one.number}: {text}{best}")

    def _fail(self, trial: optuna.Trial, error: str) -> None:
        """Nothing is to be learned from it."""
        reason = error.splitlines()[0]
        trial.set_user_attr("status", "failed")
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=TrialState.FAIL)
        self.record().write(self.folder)
        self.screen.fail(f"{self._said} {trial.number}: failed, {reason}; another takes its place")
        self._failures += 1
        if self._failures == _FAILURES:
            self.stopped = (
                f"the search stops: {_FAILURES} trials in a row failed, the last one with: "
                f"{reason}; the same command goes on once that is mended"
            )

    def _count_to_come(self) -> None:
        under_way = [*self._between, *(trial for _, trial in self._running)]
        seeds = len(self.space.seeds)
        begun = sum(seeds - len(trial.errors) for trial in under_way) - len(self._running)
        self.to_come = max(0, self.left - len(under_way)) * seeds + begun

    @contextmanager
    def _pruning(self) -> Iterator[None]:
        """Within the block, runs that fall behind are asked to stop, by a file in their record.

        A trial's first run speaks for it: its seed is the same in all trials, and the next run of
        a trial begins only after it has ended.
        """
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_POLL_SECONDS):
                with self._whole():
                    for run, trial in self._running:
                        found = None if trial.errors else self.sweep.stored(run)
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
        """Tell the pruner of the validation errors that it has not heard of; whether one of them
        is too far behind. It is asked after each, however many there are at a look and whether or
        not the run has ended: successive halving compares runs that it has seen at the same place.
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
            if "validation_error" in row and percent not in trial.told:
                trial.trial.report(row["validation_error"], percent)
                trial.told.add(percent)
                behind |= trial.trial.should_prune()
        return behind


def _stored(frozen: FrozenTrial) -> TrialRecord:
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
