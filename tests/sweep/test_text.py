"""A search on text, with runs that are trained."""

from pathlib import Path

import pytest
from hydra import initialize_config_dir

from opt_runner.config.compose import conf_dir
from opt_runner.console.screen import Screen
from opt_runner.records.search import find
from opt_runner.run.execute import execute
from opt_runner.run.interrupt import StopRequest
from opt_runner.run.run import Run
from opt_runner.sweep.search import SearchOptions, conduct
from opt_runner.sweep.space import parse_space
from tests.sweep.test_search import FakeRunner, bowl


def trained(run: Run, _runner: FakeRunner) -> None:
    execute(run, Screen("none"), in_sweep=True, stop=StopRequest())


def test_a_search_minimises_bits_per_character(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("abcabcabcabc\n" * 60)
    fixed = [
        f"output_dir={tmp_path}", "dataset=text", f"dataset.root={tmp_path}/text.txt",
        "dataset.context=8", "dataset.validation=0.2", "model=gpt_nano", "model.width=16",
        "model.heads=2", "model.depth=1", "optimizer=adamw", "schedule=cosine", "batch_size=16",
        "budget.steps=30", "hardware=cpu", "hardware.threads=1", "tracking=none",
        "progress=plain",
    ]  # fmt: skip
    options = SearchOptions(
        parallel=None, study="search", storage=str(tmp_path / "default"), trials=3, seed=0,
        pruning="none",
    )  # fmt: skip
    space = parse_space(["optimizer.lr=tag(log,interval(1e-5,3e-2))", "method=standard,cayley"])
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        runner = FakeRunner(tmp_path, bowl, fixed, run_=trained)
        assert conduct(space, options, runner) == 0
    (found,) = find([tmp_path], pytest.fail)
    assert found.measure.name == "bits per character"
    for trial, run in zip(found.trials, runner.executed, strict=True):
        result = run.record.read_result()
        assert result is not None
        assert trial.value == result.validation_error
    values = [trial.value for trial in found.trials if trial.value is not None]
    assert found.ranked()[0].value == min(values) < max(values)
    assert "test bits per character" in capsys.readouterr().out
