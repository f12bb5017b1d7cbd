"""Fair comparisons over runs that are not trained: what they would have left on disk is written."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from opt_runner.config.compose import conf_dir
from opt_runner.config.schema import Config
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.records.search import find
from opt_runner.runs.fair import Options, conduct, parse
from opt_runner.runs.run import Run
from opt_runner.runs.sweep import Sweep
from tests.runs.test_search import Cut, Ends, FakeRunner


def bowl(config: Config) -> float:
    """Least at lr 0.05 and a weight decay of 1e-3; gs is worse."""
    far = abs(math.log(config.optimizer.lr / 0.05))
    far += 0.1 * abs(math.log(config.optimizer.weight_decay / 1e-3))
    return 5 + 5 * far + 2 * (config.method.name == "gs")


@pytest.fixture
def fixed(tmp_path: Path) -> Iterator[list[str]]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield [
            f"output_dir={tmp_path}", "model=mlp", "tracking=none", "hardware=cpu",
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
        runner = FakeRunner(tmp_path, ends, fixed, cut_at=cut_at, most=2)
        options: dict[str, Any] = {
            "trials": 4, "share": 0.25, "validation": 0.1, "trial_seed": 1000, "conditions": [""],
            "parallel": None, "seed": 0, "storage": str(tmp_path / "default"),
        }  # fmt: skip

        def launch(sweep: Sweep, screen: Screen, runs: Sequence[Run]) -> None:
            runner.batches.append(len(runs))
            for run in runs:
                if len(runner.executed) == runner.cut_at:
                    raise Cut
                runner.executed.append(run)
                FakeRunner.leave(run, runner)

        try:
            code = conduct(parse(command), Options(**{**options, **more}), runner, launch)
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
    searches = find([tmp_path])
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


@pytest.mark.parametrize("kill", [0, 3, 7, 9, 12])
def test_a_cut_comparison_goes_on_and_trains_nothing_twice(begin: Begin, kill: int) -> None:
    code, first = begin(cut_at=kill)
    assert code == -9
    code, second = begin()
    assert code == 0
    both = [run.signature for run in [*first.executed, *second.executed]]
    assert len(both) == len(set(both)) == 8 + 6


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


def test_what_the_command_line_searches_replaces_what_the_method_says(begin: Begin) -> None:
    _, runner = begin([*COMMAND, "optimizer.lr=tag(log,interval(0.04,0.06))"])
    tried = [run.config.optimizer.lr for run in runner.executed[:8]]
    assert all(0.04 <= lr <= 0.06 for lr in tried)


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
        ([*COMMAND, "rerun=true"], "rerun=true does not go with a search"),
        (["method=gs", "seed=0,1000"], "seed=1000 is that of the trials"),
    ],
)
def test_what_cannot_be_compared_is_refused(begin: Begin, command: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        begin(command)
