"""Searches over runs that are not trained: what they would have left on disk is written instead."""

import json
import math
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import initialize_config_dir

from opt_runner.config.compose import Composer, conf_dir
from opt_runner.config.schema import Config
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.records.result import Result, Status
from opt_runner.records.search import SearchRecord, find
from opt_runner.run.interrupt import Interrupted
from opt_runner.run.run import Identifier, Run
from opt_runner.sweep import search, trials
from opt_runner.sweep.search import SearchOptions, conduct
from opt_runner.sweep.space import parse_space
from opt_runner.sweep.sweep import Source, Sweep
from tests.slow import slow

SPACE = ["optimizer.lr=tag(log,interval(0.003,0.3))", "method=gs,cayley"]

# One for all tests: where these are in `output_dir`, their overrides are the same.
compose = Composer("config")

Outcome = float | Status | None  # validation error, status, or no result
Ends = Callable[[Config], Outcome]


def bowl(config: Config) -> float:
    """Least at lr 0.05 with cayley."""
    return 5 + 10 * abs(math.log(config.optimizer.lr / 0.05)) + 3 * (config.method.name == "gs")


class Cut(BaseException):
    """The process is killed."""


@dataclass
class FakeRunner:
    """Writes what a run would have left. ends: how it ends. cut_at: the run, counted from 0, in
    which the process is killed."""

    tmp_path: Path
    ends: Ends
    fixed: list[str]
    cut_at: int | None = None
    most: int | None = 1
    here: bool = True
    run_: Callable[[Run, "FakeRunner"], None] | None = None
    executed: list[Run] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._identify = Identifier()

    def run(self, overrides: Sequence[str]) -> Run:
        overrides = [*self.fixed, *overrides]
        return self._identify(compose(overrides), shlex.join(["opt-run", *overrides]))

    def screen(self, run: Run) -> Screen:
        return Screen(run.config.progress)

    def prepare(self, sweep: Sweep, screen: Screen) -> None:
        """Nothing to do."""

    def at_once(self, run: Run) -> int | None:
        return self.most

    def serve(self, sweep: Sweep, screen: Screen, source: Source, at_once: int) -> None:
        most = min(at_once, self.most or at_once)
        while runs := [run for _ in range(most) if (run := source.take()) is not None]:
            self.batches.append(len(runs))
            for run in runs:
                if len(self.executed) == self.cut_at:
                    raise Cut
                self.executed.append(run)
                (self.run_ or FakeRunner.leave)(run, self)
            for run in runs:
                source.ended(run)

    @staticmethod
    def leave(run: Run, runner: "FakeRunner") -> None:
        outcome = runner.ends(run.config)
        run.record.directory.mkdir(parents=True, exist_ok=True)
        run.record.config.write_text(yaml.safe_dump(run.config.content))
        status = outcome if isinstance(outcome, str) else "finished"
        if outcome is not None:
            write(run, status, outcome if isinstance(outcome, float) else None)


def write(run: Run, status: Status, error: float | None, steps: int = 10) -> None:
    config = run.config
    names = (config.method.name, config.model.name, config.dataset.name)
    result = Result(run.signature, *names, config.seed, status, steps=steps)
    result.error = None if status in ("finished", "pruned") else "because"
    result.validation_error = error
    result.test_error = None if error is None else error + 1000
    run.record.write_result(result)


@pytest.fixture
def fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.chdir(tmp_path)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield [
            "output_dir=.", "model=mlp", "tracking=none", "hardware=cpu",
            "dataset.validation=0.1", "progress=plain", "budget.steps=10",
        ]  # fmt: skip


@pytest.fixture
def begin(tmp_path: Path, fixed: list[str]) -> Callable[..., tuple[int, FakeRunner]]:
    """Search in `tmp_path`, as one command does; returns its exit code and what executed it."""

    def begin(
        space: Sequence[str] = SPACE, ends: Ends = bowl, parallel: int = 1, **more: Any
    ) -> tuple[int, FakeRunner]:
        given = {key: more.pop(key) for key in ("trials", "seed", "pruning") if key in more}
        options = {"trials": 8, "seed": 0, "pruning": "none", **given}
        runner = FakeRunner(tmp_path, ends, fixed, most=parallel, **more)
        asked = SearchOptions(
            parallel=None, study="search", storage=str(tmp_path / "default"), **options
        )
        try:
            return conduct(parse_space(space), asked, runner), runner
        except Cut:
            return -9, runner

    return begin


Begin = Callable[..., tuple[int, FakeRunner]]


def record(tmp_path: Path) -> SearchRecord:
    (found,) = find([tmp_path], pytest.fail)
    return found


def drawn(tmp_path: Path) -> list[dict[str, Any]]:
    return [trial.parameters for trial in record(tmp_path).trials]


def test_what_is_minimised_is_the_validation_error(
    begin: Begin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, runner = begin(trials=25)
    assert code == 0
    assert len(runner.executed) == 25
    found = record(tmp_path)
    assert [trial.status for trial in found.trials] == ["finished"] * 25
    for trial, run in zip(found.trials, runner.executed, strict=True):
        assert trial.value == trial.errors[0] == pytest.approx(bowl(run.config))
        assert trial.runs == [run.signature]
    best = found.ranked()[0]
    assert best.value == min(map(bowl, [run.config for run in runner.executed]))
    assert best.value < 8
    later = [trial.value for trial in found.trials[15:]]
    assert sum(later) / 10 < sum(trial.value for trial in found.trials[:10]) / 10, "it learns"

    said = capsys.readouterr().out
    assert "plan: search search-" in said
    assert "25 trials: 0 done, 0 to resume, 25 to draw; up to 1 at once" in said
    (line,) = re.findall(rf"^best: trial {best.number}: .*", said, re.MULTILINE)
    assert f"optimizer.lr={best.parameters['optimizer.lr']:.6g}" in line
    shown = re.findall(r"\b10\d\d\.\d\d\b", said)
    assert shown == [f"{best.value + 1000:.2f}"], "the test error of the best trial alone"
    assert f"opt-run {' '.join(runner.fixed)}" in said


def test_the_same_command_again_runs_nothing_and_more_trials_extend(
    begin: Begin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(trials=5)
    first = drawn(tmp_path)
    assert begin(trials=5)[1].executed == []
    assert "5 done, 0 to resume, 0 to draw" in capsys.readouterr().out
    code, runner = begin(trials=7)
    assert code == 0
    assert len(runner.executed) == 2
    assert drawn(tmp_path)[:5] == first
    assert begin(trials=3)[0] == 0, "fewer are there as well"


@pytest.mark.parametrize("kill", [1, 7, *slow(0, 4)])
def test_a_search_that_is_killed_and_begun_again_draws_what_an_uncut_one_draws(
    begin: Begin, tmp_path: Path, kill: int
) -> None:
    code, first = begin(cut_at=kill)
    assert code == -9
    code, second = begin()
    assert code == 0
    assert [trial.status for trial in record(tmp_path).trials] == ["finished"] * 8
    both = [run.signature for run in [*first.executed, *second.executed]]
    assert len(both) == 8, "the one that was cut is executed by the second alone"
    cut = drawn(tmp_path)
    (tmp_path / "default").rename(tmp_path / "kept")
    begin()
    uncut = [trial.parameters for trial in find([tmp_path / "default"], pytest.fail)[0].trials]
    assert cut == uncut


def test_a_journal_with_half_a_line_and_a_lock_left_in_it_goes_on(
    begin: Begin, tmp_path: Path
) -> None:
    begin(cut_at=3)
    (journal,) = tmp_path.glob("default/search-*/journal.log")
    with journal.open("ab") as file:
        file.write(b'{"op_code": 6, "worker')
    os.symlink(journal, f"{journal}.lock")
    code, runner = begin()
    assert code == 0
    assert len(runner.executed) == 5
    assert record(tmp_path).count("finished") == 8


@pytest.mark.parametrize("lines", [1, 2])
def test_a_trial_that_was_half_drawn_is_drawn_again(
    begin: Begin, tmp_path: Path, lines: int
) -> None:
    """lines: those left of the trial: its creation, and the first of its parameters."""
    begin()
    (journal,) = tmp_path.glob("default/search-*/journal.log")
    whole = record(tmp_path)
    text = journal.read_bytes().splitlines(keepends=True)
    created = [place for place, line in enumerate(text) if b'"op_code":4' in line]
    journal.write_bytes(b"".join(text[: created[3] + lines]))
    begin()
    again = record(tmp_path)
    assert [trial.parameters for trial in again.trials] == [t.parameters for t in whole.trials]
    assert again.count("finished") == 8


def test_a_damaged_journal_is_named_and_without_it_nothing_is_trained_again(
    begin: Begin, tmp_path: Path
) -> None:
    begin()
    (journal,) = tmp_path.glob("default/search-*/journal.log")
    whole = drawn(tmp_path)
    journal.write_bytes(b"?" * 20 + b"\n" + journal.read_bytes())
    with pytest.raises(UserError, match=r"journal.log is damaged .*: move it away"):
        begin()
    journal.unlink()
    code, runner = begin()
    assert code == 0
    assert runner.executed == []
    assert drawn(tmp_path) == whole


def test_another_search_has_its_own_study(begin: Begin, tmp_path: Path) -> None:
    begin(trials=1)
    for change in (
        {"space": ["optimizer.lr=tag(log,interval(0.003,0.2))", "method=gs,cayley"]},
        {"space": [*SPACE, "batch_size=64"]},
        {"seed": 1},
        {"pruning": "median"},
        {"space": [*SPACE, "seed=0,1"]},
    ):
        before = len(find([tmp_path], pytest.fail))
        begin(**{"trials": 1, **change})
        assert len(find([tmp_path], pytest.fail)) == before + 1, change
    begin(trials=1, space=[*reversed(SPACE), "checkpoint.every_seconds=5"])
    assert len(find([tmp_path], pytest.fail)) == before + 1, (
        "what changes no result is no other search"
    )


def test_a_trial_is_the_mean_over_its_seeds(begin: Begin, tmp_path: Path) -> None:
    code, runner = begin([*SPACE, "seed=0,1,2"], lambda c: bowl(c) + c.seed, trials=3)
    assert code == 0
    assert [run.config.seed for run in runner.executed] == [0, 1, 2] * 3
    for place, trial in enumerate(record(tmp_path).trials):
        runs = runner.executed[3 * place : 3 * place + 3]
        assert trial.runs == [run.signature for run in runs]
        assert trial.value == pytest.approx(bowl(runs[0].config) + 1)


def test_a_diverged_trial_is_the_worst_and_its_other_seeds_are_not_run(
    begin: Begin, tmp_path: Path
) -> None:
    def ends(config: Config) -> Outcome:
        return "diverged" if config.optimizer.lr > 0.1 else bowl(config)

    code, runner = begin([*SPACE, "seed=0,1"], ends, trials=20)
    assert code == 0
    found = record(tmp_path).trials
    diverged = [trial for trial in found if trial.status == "diverged"]
    assert diverged
    assert {trial.value for trial in diverged} == {100.0}
    assert all(trial.parameters["optimizer.lr"] > 0.1 for trial in diverged)
    assert len(runner.executed) == 2 * 20 - len(diverged)
    assert len([trial for trial in diverged if trial.number >= 12]) <= 1, "it stays away"


def test_a_failed_trial_is_replaced_and_not_learned_from(begin: Begin, tmp_path: Path) -> None:
    outcomes: Iterator[Outcome] = iter([10.0, "failed", "failed", 12.0, 11.0, 13.0])
    code, runner = begin(SPACE, lambda config: next(outcomes), trials=4)
    assert code == 0
    assert len(runner.executed) == 6
    found = record(tmp_path).trials
    assert [trial.status for trial in found] == ["finished", "failed", "failed"] + ["finished"] * 3
    assert [trial.value for trial in found] == [10.0, None, None, 12.0, 11.0, 13.0]
    assert [trial.reason for trial in found][1:3] == ["because", "because"]


def test_a_run_without_a_result_ends_the_search_and_its_point_is_not_lost(
    begin: Begin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uncut: Iterator[Outcome] = iter([10.0, 12.0, 11.0])
    begin([*SPACE, "note=uncut"], lambda config: next(uncut), trials=3)
    expected = [trial.parameters for trial in record(tmp_path).trials]
    shutil.rmtree(tmp_path / "default")
    full: Iterator[Outcome] = iter([10.0, None])
    code, runner = begin(SPACE, lambda config: next(full), trials=3)
    assert (code, len(runner.executed)) == (1, 2)
    assert "a run of trial 1 left no result, as on a full disk; the same" in capsys.readouterr().out
    rest: Iterator[Outcome] = iter([12.0, 11.0])
    code, runner = begin(SPACE, lambda config: next(rest), trials=3)
    assert code == 0
    found = record(tmp_path).trials
    assert [trial.value for trial in found] == [10.0, 12.0, 11.0]
    assert [trial.parameters for trial in found] == expected


def test_failures_in_a_row_end_the_search(
    begin: Begin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, runner = begin(SPACE, lambda config: "failed")
    assert code == 1
    assert len(runner.executed) == 5
    said = capsys.readouterr().out
    assert "the search stops: 5 trials in a row failed, the last one with: because" in said
    code, runner = begin(SPACE, bowl)
    assert code == 0, "once it is mended, the same command goes on"
    assert len(runner.executed) == 8


def test_parameters_that_do_not_go_together_fail_their_trial(begin: Begin, tmp_path: Path) -> None:
    space = ["optimizer.nesterov=false,true", "optimizer.momentum=0.9,0"]
    code, _ = begin(space, lambda config: 10.0, trials=6)
    assert code == 0
    found = record(tmp_path)
    for trial in found.trials:
        bad = trial.parameters == {"optimizer.nesterov": "True", "optimizer.momentum": "0"}
        assert trial.status == ("failed" if bad else "finished")
    assert found.count("failed")
    assert found.count("finished") == 6


def test_the_same_parameters_again_are_not_run_again(begin: Begin, tmp_path: Path) -> None:
    code, runner = begin(["method=gs,cayley"], trials=10)
    assert code == 0
    assert len(runner.executed) == 2
    assert record(tmp_path).count("finished") == 10


def test_an_interruption_leaves_its_trials_to_the_same_command(
    begin: Begin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(run: Run, runner: FakeRunner) -> None:
        if len(runner.executed) == 3:
            run.record.directory.mkdir(parents=True, exist_ok=True)
            run.record.config.write_text(yaml.safe_dump(run.config.content))
            write(run, "interrupted", None)
            raise Interrupted(2)
        FakeRunner.leave(run, runner)

    code, _ = begin(run_=interrupted)
    assert code == 130
    said = capsys.readouterr()
    assert "interrupted; the same command resumes" in said.err
    assert "best: trial" in said.out
    assert not re.findall(r"\b10\d\d\.\d\d\b", said.out), "no test error before the end"
    assert [trial.status for trial in record(tmp_path).trials] == ["finished"] * 2 + [
        "not finished"
    ]
    code, runner = begin()
    assert "2 done, 1 to resume, 5 to draw" in capsys.readouterr().out
    assert code == 0
    assert len(runner.executed) == 6


def test_batches_are_as_large_as_is_asked_for_and_learn_from_those_before(
    begin: Begin, tmp_path: Path
) -> None:
    code, runner = begin(trials=7, parallel=3)
    assert code == 0
    assert runner.batches == [3, 3, 1]
    assert record(tmp_path).count("finished") == 7


def test_a_launcher_s_error_is_told_and_the_same_command_goes_on(
    begin: Begin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(run: Run, runner: FakeRunner) -> None:
        raise RuntimeError("no more machines")

    code, _ = begin(run_=broken)
    assert code == 1
    assert "the launcher failed: RuntimeError: no more machines" in capsys.readouterr().out
    assert begin()[0] == 0


# ----- pruning


def evaluated(run: Run, bad: bool, waits: bool) -> None:
    """Ten evaluations. A bad run never gets better. waits: to be stopped, before the last."""
    run.record.directory.mkdir(parents=True, exist_ok=True)
    run.record.prune.unlink(missing_ok=True)
    run.record.config.write_text(yaml.safe_dump(run.config.content))
    for step in range(1, 11):
        error = 80.0 if bad else 90.0 - 8 * step
        run.record.append_metrics({"step": step, "epoch": step / 10, "validation_error": error})
        patience = time.monotonic() + 20
        while waits and step == 9 and time.monotonic() < patience:
            if run.record.prune.exists():
                write(run, "pruned", error, step)
                return
            time.sleep(0.01)
    write(run, "finished", error)


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_POLL_SECONDS", 0.01)


@pytest.mark.usefixtures("prompt")
def test_runs_that_fall_behind_are_asked_to_stop(begin: Begin, tmp_path: Path) -> None:
    def trained(run: Run, runner: FakeRunner) -> None:
        bad = run.config.optimizer.momentum > 0.6
        evaluated(run, bad, waits=bad and len(runner.executed) > 12)

    space = ["optimizer.momentum=interval(0,0.9)", "seed=0,1"]
    code, runner = begin(space, run_=trained, pruning="median", trials=14)
    assert code == 0
    found = record(tmp_path)
    pruned = [trial for trial in found.trials if trial.status == "pruned"]
    assert pruned
    assert found.count("pruned") + found.count("finished") == 14
    assert all(trial.parameters["optimizer.momentum"] > 0.6 for trial in pruned)
    for trial in pruned:
        executed = [run.signature for run in runner.executed if run.signature in trial.runs]
        assert executed == trial.runs[:1], "the other seed is not begun"
    assert begin(space, run_=trained, pruning="median", trials=14)[1].executed == []


@pytest.mark.usefixtures("prompt")
def test_hyperband_stops_what_falls_behind_in_its_bracket(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Optuna draws a trial's bracket from the study's name and the trial's number. With this name
    # the first four are two of each: one bracket stops trials from 20% of the budget on, the other
    # from 60%.
    monkeypatch.setattr(search, "space_digest", lambda *_: "STUDY")

    def trained(run: Run, runner: FakeRunner) -> None:
        bad = len(runner.executed) > 4
        evaluated(run, bad, waits=bad)

    code, _ = begin(run_=trained, pruning="hyperband", trials=10)
    assert code == 0
    assert [trial.status for trial in record(tmp_path).trials] == ["finished"] * 4 + ["pruned"] * 6


@pytest.mark.usefixtures("prompt")
def test_a_pruned_run_is_settled_for_its_trial_also_after_a_kill(
    begin: Begin, tmp_path: Path
) -> None:
    """Killed between the end of the run and the study's hearing of it."""

    def killed(run: Run, runner: FakeRunner) -> None:
        run.record.directory.mkdir(parents=True, exist_ok=True)
        run.record.config.write_text(yaml.safe_dump(run.config.content))
        write(run, "pruned", 80.0, 4)
        raise Cut

    assert begin(run_=killed, pruning="median", trials=2)[0] == -9
    code, runner = begin(pruning="median", trials=2)
    assert code == 0
    assert [trial.status for trial in record(tmp_path).trials] == ["pruned", "finished"]
    assert len(runner.executed) == 1


def test_progress_is_told_in_percent_of_the_budget(begin: Begin, tmp_path: Path) -> None:
    space = ["batch_size=int(interval(20,40))", "budget.steps=null", "budget.epochs=2"]

    def epochs(run: Run, runner: FakeRunner) -> None:
        FakeRunner.leave(run, runner)
        steps = 1298 // run.config.batch_size
        for epoch in (0, 1, 2):
            row = {"step": steps * epoch, "epoch": float(epoch), "validation_error": 50.0}
            run.record.append_metrics(row)

    begin(space, lambda config: 50.0, run_=epochs, pruning="median", trials=3)
    (journal,) = tmp_path.glob("default/search-*/journal.log")
    told = [json.loads(line) for line in journal.read_text().splitlines()]
    percents = [one["step"] for one in told if "intermediate_value" in one]
    assert percents == [0, 50, 100] * 3


# ----- what is refused


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ([*SPACE, "dataset.validation=0"], "hold training images back for it"),
        ([*SPACE, "when_locked=leave"], "when_locked=leave does not go with a search"),
        ([*SPACE, "rerun=true"], "rerun=true does not go with a search"),
        (["optimizer.lr=interval(-1,1)"], "optimizer.lr: must be greater than 0"),
        (["optimizer.momentum=interval(0,1)"], "optimizer.momentum: must be less than 1"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_starts(
    begin: Begin, tmp_path: Path, space: list[str], says: str
) -> None:
    with pytest.raises(UserError) as caught:
        begin(space)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_that_does_not_say_how_many_runs_it_executes_is_asked_for_it(
    begin: Begin,
) -> None:
    with pytest.raises(UserError, match=r"hydra.sweeper.parallel=N must be given"):
        begin(parallel=None)


def test_a_search_that_is_under_way_is_not_begun_a_second_time(
    begin: Begin, tmp_path: Path
) -> None:
    def meanwhile(run: Run, runner: FakeRunner) -> None:
        with pytest.raises(UserError, match=r"search search-\w+ is under way: process \d+ on"):
            begin()
        FakeRunner.leave(run, runner)

    assert begin(run_=meanwhile, trials=1)[0] == 0


def test_the_options_of_the_sweeper_are_those_of_its_yaml_file() -> None:
    keys = yaml.safe_load((conf_dir() / "hydra/sweeper/optuna.yaml").read_text()).keys()
    assert keys - {
        "_target_",
        "_convert_",
        "params",
    } == search.SearchOptions.model_fields.keys() - {"params"}
