"""Fair comparisons over runs that are not trained: what they would have left on disk is written."""

import errno
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from opt_runner.config.compose import conf_dir
from opt_runner.config.schema import Config
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.files import CannotWrite
from opt_runner.records.search import SearchRecord, find
from opt_runner.records.tuned import superseded
from opt_runner.run.run import Run
from opt_runner.sweep import plan
from opt_runner.sweep.entrants import ComparisonOptions, parse_command
from opt_runner.sweep.fair import conduct, folder_name
from opt_runner.sweep.sweep import LeftRunning, Sweep
from tests.slow import slow
from tests.sweep.test_search import Cut, Ends, FakeRunner, Outcome


def bowl(config: Config) -> float:
    """Least at lr 0.05 and a weight decay of 1e-3; gs is worse."""
    far = abs(math.log(config.optimizer.lr / 0.05))
    far += 0.1 * abs(math.log(config.optimizer.weight_decay / 1e-3))
    return 5 + 5 * far + 2 * (config.method.name == "gs")


@pytest.fixture
def fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.chdir(tmp_path)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield [
            "output_dir=.", "model=mlp", "tracking=none", "hardware=cpu",
            "progress=plain", "budget.epochs=8",
        ]  # fmt: skip


Begin = Callable[..., tuple[int, FakeRunner]]
COMMAND = ["method=standard,gs", "seed=0,1,2"]


@pytest.fixture
def begin(tmp_path: Path, fixed: list[str]) -> Begin:
    """A comparison in `tmp_path`, as one command does; returns its exit code and what executed
    it."""

    def begin(
        command: Sequence[str] = COMMAND, ends: Ends = bowl, cut_at: int | None = None, **more: Any
    ) -> tuple[int, FakeRunner]:
        runner = FakeRunner(tmp_path, ends, fixed, cut_at=cut_at, most=1)
        options: dict[str, Any] = {
            "trials": 4, "share": 0.25, "validation": 0.1, "trial_seed": 1000, "conditions": [""],
            "seed": 0, "storage": str(tmp_path / "default"),
        }  # fmt: skip

        asked = ComparisonOptions(**{**options, **more})
        try:
            code = conduct(parse_command(command), asked, runner)
        except Cut:
            code = -9
        return code, runner

    return begin


def test_each_entrant_is_tuned_alike_then_run_with_its_best_setting(
    begin: Begin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, runner = begin()
    assert code == 0
    trials, final = runner.executed[:8], runner.executed[8:]
    for run in trials:
        config = run.config
        assert (config.seed, config.dataset.validation) == (1000, 0.1)
        assert (config.budget.epochs, config.evaluate.test) == (2, "never")
        assert config.experiment_name == "default_search"
    searches = find([tmp_path], pytest.fail)
    assert len(searches) == 2
    assert [len(search.trials) for search in searches] == [4, 4]
    for name in ("standard", "gs"):
        own = [run.config for run in trials if run.config.method.name == name]
        recipe = 0.01 if name == "standard" else 0.1
        assert (own[0].optimizer.lr, own[0].optimizer.weight_decay) == (recipe, 5e-4)
        assert (own[0].optimizer.rotation_lr is None) == (name == "standard")
        best = min(own, key=bowl)
        runs = [run.config for run in final if run.config.method.name == name]
        assert [config.seed for config in runs] == [0, 1, 2]
        for config in runs:
            assert config.optimizer == best.optimizer
            assert config.method == best.method
            assert (config.budget.epochs, config.dataset.validation) == (8, 0)
            assert config.evaluate.test == "last"
    said = capsys.readouterr().out
    assert "2 entrants, each with 4 trials of 25% of the budget on 90%" in said
    assert "then 6 runs: 2 entrants x 3 seeds" in said


def test_the_first_trials_are_spread_over_the_whole_space(begin: Begin) -> None:
    _, runner = begin(["method=gs", "seed=0"], trials=9)
    rates = [run.config.optimizer.rotation_lr for run in runner.executed[1:9]]
    logarithms = sorted(math.log(rate / 0.003) / math.log(1000) for rate in rates if rate)
    assert len(logarithms) == 8
    for place in range(4):
        assert any(place / 4 <= u < (place + 1) / 4 for u in logarithms)


def test_an_entrant_alone_is_called_by_its_method(begin: Begin, tmp_path: Path) -> None:
    """So that its search stands beside those of other commands in one report."""
    begin(["method=gs", "seed=0"])
    begin(["seed=0"])
    assert sorted(search.label for search in find([tmp_path], pytest.fail)) == ["cayley", "gs"]


def test_the_points_are_those_of_published_comparisons(begin: Begin) -> None:
    _, runner = begin(["method=cayley", "seed=0"], trials=3)
    tried = [run.config for run in runner.executed[:3]]
    assert [config.optimizer.lr for config in tried] == [0.1, 0.077906, 0.0077906]
    assert [config.optimizer.weight_decay for config in tried] == [0.0005, 0.000255411, 0.00255411]
    assert [config.optimizer.rotation_lr for config in tried] == [0.1, 0.0774559, 0.308357]
    assert {config.method.options["start"] for config in tried} == {"identity"}


@pytest.mark.parametrize("kill", [3, 12, *slow(0, 7, 9)])
def test_a_cut_comparison_goes_on_and_trains_nothing_twice(begin: Begin, kill: int) -> None:
    code, first = begin(cut_at=kill)
    assert code == -9
    code, second = begin()
    assert code == 0
    both = [run.signature for run in [*first.executed, *second.executed]]
    assert len(both) == len(set(both)) == 8 + 6


def test_a_full_disk_when_the_searches_are_told_is_one_line(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(record: SearchRecord, folder: Path) -> None:
        raise CannotWrite(folder / "search.json", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    with monkeypatch.context() as patched:
        patched.setattr(SearchRecord, "write", full)
        code, runner = begin()
    assert code == 1
    assert {run.config.seed for run in runner.executed} == {1000}, "trials alone"
    assert "search.json: No space left on device" in capsys.readouterr().out
    assert begin()[0] == 0


def test_the_same_command_again_runs_nothing_and_more_trials_extend(begin: Begin) -> None:
    begin()
    assert begin()[1].executed == []
    code, runner = begin(trials=6)
    assert code == 0
    trials = [run for run in runner.executed if run.config.seed == 1000]
    assert len(trials) == 4


def test_conditions_take_the_setting_that_was_found(begin: Begin) -> None:
    code, runner = begin(conditions=["", "dataset.share=0.1", "dataset.label_noise=0.2"])
    assert code == 0
    final = [run.config for run in runner.executed[8:]]
    assert len(final) == 18
    assert [config.dataset.share for config in final] == [1.0] * 6 + [0.1] * 6 + [1.0] * 6
    assert len({run.signature for run in runner.executed}) == 26
    for config in final:
        same = next(c for c in final if c.method.name == config.method.name)
        assert config.optimizer == same.optimizer


def test_a_plan_without_the_usual_settings_says_so(
    begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "no run under the usual settings"
    begin(["method=gs", "seed=0"], trials=1)
    assert words not in capsys.readouterr().out
    begin(["method=gs", "seed=0"], conditions=["dataset.share=0.1"], trials=1)
    assert words in capsys.readouterr().out


def test_what_the_command_line_searches_replaces_what_the_method_says(begin: Begin) -> None:
    _, runner = begin([*COMMAND, "optimizer.lr=tag(log,interval(0.04,0.06))"])
    tried = [run.config.optimizer.lr for run in runner.executed[:8]]
    assert all(0.04 <= lr <= 0.06 for lr in tried)


def test_the_order_on_the_command_line_does_not_matter(begin: Begin, tmp_path: Path) -> None:
    more = ["optimizer.momentum=interval(0.8,0.95)", "optimizer.lr=tag(log,interval(0.001,0.1))"]
    begin([*COMMAND, *more])
    code, runner = begin(["method=gs,standard", "seed=2,0,1", *reversed(more)])
    assert code == 0
    assert runner.executed == []
    assert len(list(tmp_path.glob("default/fair-*"))) == 1
    assert len(list(tmp_path.glob("default/fair-*/*/search.json"))) == 2


def test_an_entrant_whose_trials_all_diverge_is_left_out_and_said(
    begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(config: Config) -> float | str:
        return "diverged" if config.method.name == "gs" else bowl(config)

    code, runner = begin(ends=ends)
    assert code == 1
    assert {run.config.method.name for run in runner.executed[8:]} == {"standard"}
    assert "gs: all trials diverged; it is not compared" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ([*COMMAND, "dataset.validation=0.1"], "leave out dataset.validation"),
        ([*COMMAND, "when_locked=leave"], "when_locked=leave does not go with a search"),
        ([*COMMAND, "rerun=true"], "rerun=true does not go with a search"),
        (["method=gs", "seed=0,1000"], "seed=1000 is the seed of the trials"),
        ([*COMMAND, "seed=0,x"], "seed"),
    ],
)
def test_what_cannot_be_compared_is_refused(begin: Begin, command: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        begin(command)


@pytest.mark.parametrize(
    "condition",
    ["schedule.warmup=0.2", "method.start=normal", "dataset.validation=0.1", "rerun=true",
     "dataset.share=2", "note='a", "seed=7", "evaluate.test=every"],
)  # fmt: skip
def test_a_condition_that_cannot_be_compared_is_refused_before_the_search(
    begin: Begin, tmp_path: Path, condition: str
) -> None:
    with pytest.raises(UserError) as caught:
        begin(["method=gs", "seed=0"], conditions=["", condition])
    assert condition.partition("=")[0] in str(caught.value)
    assert find([tmp_path], pytest.fail) == []


def test_what_the_command_line_fixes_is_not_searched(begin: Begin) -> None:
    command = ["method=gs", "method.start=identity", "optimizer.lr=0.04,0.06", "seed=0"]
    _, runner = begin(command, trials=2)
    assert {run.config.method.options["start"] for run in runner.executed} == {"identity"}
    rates = [run.config.optimizer.lr for run in runner.executed]
    assert rates == [0.04, 0.04, 0.06, 0.06, 0.04, 0.06]


def test_the_recipe_keeps_a_null_and_choices_that_are_numbers(begin: Begin) -> None:
    code, runner = begin(["method=mhe", "seed=0"], trials=1)
    assert code == 0
    options = runner.executed[0].config.method.options
    assert (options["power"], options["hidden_weight"]) == (0, None)


def test_a_recipe_outside_the_range_begins_in_the_middle_of_it(begin: Begin) -> None:
    _, runner = begin(["method=gs", "seed=0", "optimizer.lr=interval(0.02,0.04)"], trials=1)
    assert runner.executed[0].config.optimizer.lr == 0.03


def test_a_failed_trial_does_not_count_and_is_run_anew_by_the_same_command(
    begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(config: Config) -> Outcome:
        return "failed" if config.optimizer.weight_decay == 5e-4 else bowl(config)

    code, first = begin(ends=ends)
    assert code == 1
    assert "gs: 1 of 4 trials failed and do not count, the first with: because" in (
        capsys.readouterr().out
    )
    assert len(first.executed) == 8 + 6, "the others are compared"
    code, second = begin()
    assert code == 0
    trials = [run for run in second.executed if run.config.seed == 1000]
    assert [run.config.optimizer.weight_decay for run in trials] == [5e-4, 5e-4]


def test_trials_that_do_not_finish_keep_the_final_runs_back(begin: Begin) -> None:
    code, runner = begin(ends=lambda config: None)
    assert code == 1
    assert {run.config.seed for run in runner.executed} == {1000}


def test_a_launcher_that_leaves_its_jobs_running_is_asked_again_for_the_final_runs(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(*_: Any) -> None:
        raise LeftRunning("submitted")

    with monkeypatch.context() as patched:
        patched.setattr(FakeRunner, "serve", leave)
        assert begin()[0] == 0
    assert "submitted" in capsys.readouterr().out
    code, runner = begin()
    assert code == 0
    assert len(runner.executed) == 8 + 6


def test_each_trial_that_ends_is_in_the_record_of_its_search(begin: Begin, tmp_path: Path) -> None:
    begin(cut_at=6)
    statuses = {one.label: [t.status for t in one.trials] for one in find([tmp_path], pytest.fail)}
    assert statuses["standard"] == ["finished"] * 4
    assert statuses["gs"] == ["finished"] * 2 + ["not finished"] * 2


def test_a_condition_that_leaves_fewer_images_than_a_batch_is_refused_before_the_search(
    begin: Begin, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="batch size 128 does not suit 20 training samples"):
        begin(conditions=["", "dataset.share=0.01"])
    assert find([tmp_path], pytest.fail) == []


@pytest.mark.parametrize("label", ["gs cnn6", "/gs", "..", "[8,8]", "x" * 300])
def test_an_entrant_has_a_folder_inside_that_of_the_comparison(tmp_path: Path, label: str) -> None:
    name = folder_name(1, label)
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    (tmp_path / name).mkdir()


def test_runs_with_former_settings_are_left_out_of_reports(begin: Begin, tmp_path: Path) -> None:
    def ends(config: Config) -> float:
        return 90.0 if config.optimizer.weight_decay == 5e-4 else bowl(config)

    _, first = begin(["method=gs", "seed=0"], ends, trials=1)
    assert superseded([tmp_path], pytest.fail) == set()
    _, second = begin(["method=gs", "seed=0"], ends, trials=2)
    assert [run.config.seed for run in second.executed] == [1000, 0]
    assert superseded([tmp_path], pytest.fail) == {first.executed[1].signature}


def test_the_plan_times_a_trial_of_each_entrant(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def show(
        sweep: Sweep, left: Sequence[Run], screen: Screen, kind_of: Any = plan.kind_of
    ) -> None:
        timed.append(len({kind_of(run) for run in left}))

    monkeypatch.setattr(plan, "show", show)
    begin([*COMMAND, "plan.measure=true"], trials=3)
    assert timed == [2, 2], "of 6 trials two, of 6 runs two"


def test_conditions_that_make_the_same_runs_run_once(begin: Begin) -> None:
    code, runner = begin(["method=gs", "seed=0"], conditions=["", "dataset.share=1"], trials=1)
    assert code == 0
    assert len(runner.executed) == 1 + 1
