"""A run that a search stops: saved, not failed, and free to go on outside of the search."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from opt_runner.config.compose import compose, conf_dir
from opt_runner.console.screen import Screen, outcome
from opt_runner.records import stored
from opt_runner.records.record import Record
from opt_runner.run.execute import execute
from opt_runner.run.interrupt import StopRequest, stop_requests
from opt_runner.run.run import Run, identify, settled_result
from opt_runner.run.step import TrainingStep
from tests.small import rows

SMALL = [
    "model=mlp", "model.widths=[8]", "tracking=none", "hardware=cpu", "hardware.threads=1",
    "dataset.validation=0.1", "budget.steps=12", "evaluate.every=2", "evaluate.ema=0.9",
    "log.every=1",
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield identify(compose("config", [f"output_dir={tmp_path}", *SMALL]))


def start(run: Run) -> Any:
    return execute(run, Screen("none"), in_sweep=True, stop=StopRequest())


def ask_to_stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    append = Record.append_metrics

    def append_and_ask(record: Record, row: dict[str, Any]) -> None:
        append(record, row)
        if row["step"] == step:
            record.prune.touch()

    monkeypatch.setattr(Record, "append_metrics", append_and_ask)


def test_it_stops_after_an_evaluation_and_keeps_test_errors_to_itself(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_to_stop_at(5, monkeypatch)  # where there is no evaluation
    result = start(run)
    assert (result.status, result.steps, result.error) == ("pruned", 6, None)
    assert result.validation_error == run.record.read_metrics()[-1]["validation_error"]
    assert result.test_error is None
    assert result.test_error_at_best is None
    assert run.record.checkpoint.exists()
    assert result.ended_well
    assert settled_result(run, Screen("none")) is None


def test_outside_of_the_search_it_goes_on_to_the_end_of_an_uncut_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        ask_to_stop_at(6, patched)
        assert start(run).status == "pruned"
    assert run.record.prune.exists()
    result = start(run)
    assert (result.status, result.steps) == ("finished", 12)
    resumed = rows(run)
    run.record.set_aside()
    again = start(run)
    assert resumed == rows(run)
    assert result.test_error_at_best == again.test_error_at_best
    assert result.best_step == again.best_step


def test_mixed_and_augmented_it_resumes_to_the_bit(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["augment.mixup=0.2", "augment.cutmix=1", "augment/then=randaugment",
             "dataset.size=12", "augment.pad=2"]  # fmt: skip
    folder = f"output_dir={run.config.output_dir}"
    run = identify(compose("config", [folder, *SMALL, *words]))
    with monkeypatch.context() as patched:
        ask_to_stop_at(6, patched)
        assert start(run).status == "pruned"
    result = start(run)
    assert result.status == "finished"
    resumed = rows(run)
    assert 0 <= resumed[-1]["train_error"] <= 100
    run.record.set_aside()
    start(run)
    assert resumed == rows(run)


def test_after_the_last_step_there_is_nothing_to_stop(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_to_stop_at(12, monkeypatch)
    assert start(run).status == "finished"


def test_only_a_finished_run_leaves_the_plain_network(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        ask_to_stop_at(6, patched)
        assert start(run).status == "pruned"
    assert not run.record.weights.exists()
    assert start(run).status == "finished"
    written = run.record.weights.read_bytes()
    run.record.weights.unlink()
    assert start(run).status == "finished"
    assert not run.record.weights.exists(), "an old record is left as it is"
    run.record.result.unlink()
    assert start(run).status == "finished"
    assert run.record.weights.read_bytes() == written


def test_a_settled_run_has_no_checkpoints_and_is_not_trained_again(run: Run) -> None:
    assert start(run).status == "finished"
    assert not run.record.checkpoints()
    rows = run.record.read_metrics()
    assert start(run).status == "finished"
    assert run.record.read_metrics() == rows


def test_a_network_that_overflows_has_diverged(tmp_path: Path) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        run = identify(compose("config", [
            f"output_dir={tmp_path}", "model=mlp", "method=ogd", "tracking=none", "hardware=cpu",
            "budget.steps=1", "schedule.warmup=0", "optimizer.lr=1e38",
        ]))  # fmt: skip
    result = start(run)
    assert (result.status, result.error) == ("diverged", "the network's outputs are not finite")
    assert not run.record.weights.exists()


@pytest.mark.parametrize(
    "place", ["opt_runner.run.step.TrainingStep.update", "opt_runner.run.execute.set_up"]
)
def test_code_that_exits_is_a_failed_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(place, lambda *_: sys.exit(0))
    result = start(run)
    assert (result.status, result.error) == ("failed", "the run's code called sys.exit(0)")
    assert run.record.read_result().status == "failed"


def test_a_rerun_is_another_run_of_wandb_and_a_resumed_one_is_not(run: Run) -> None:
    with run.record.held(lambda holder: None):
        first = run.record.wandb_id()
        assert run.record.wandb_id() == first
    start(run)
    assert run.record.wandb_id() == first
    start(replace(run, config=run.config.model_copy(update={"rerun": True})))
    assert run.record.wandb_id() != first


def test_a_measure_does_not_take_the_place_of_a_row_s_own_value(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opt_runner.opt.OPT.measure", lambda self: {"test_error": 0.0})
    result = start(run)
    assert result.status == "failed"
    assert "measure gives 'test_error'" in result.error


@pytest.mark.parametrize("content", [None, "", "seed: [", "a: 1\n"])
def test_a_lost_or_damaged_config_of_a_finished_run_is_written_anew(
    run: Run, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = start(run)
    whole = run.record.config.read_text()
    run.record.config.unlink()
    if content is not None:
        run.record.config.write_text(content)
    assert stored.read(run.record.directory) is None
    assert settled_result(run, Screen("plain")) == finished
    assert run.record.config.read_text() == whole
    assert "config.yaml" in capsys.readouterr().out
    aside = run.record.config.with_name("config.yaml.damaged-1")
    assert (aside.read_text() if aside.exists() else None) == content


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_set_aside(
    run: Run, make: Callable[[Path], None]
) -> None:
    record = run.record
    odd = [record.config, record.metrics, record.log, record.command, record.checkpoint,
           record.previous_checkpoint, record.weights, record.prune]  # fmt: skip
    record.directory.mkdir(parents=True)
    for path in odd:
        make(path)
    assert start(run).status == "finished"
    assert all(path.with_name(f"{path.name}.damaged-1").exists() for path in odd)


def test_time_spent_stopped_is_no_training(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        if stopped:
            return
        waker = subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {os.getpid()}"])
        stopped.append(waker)
        os.kill(os.getpid(), signal.SIGSTOP)
        waker.wait()

    stopped: list[Any] = []
    update = TrainingStep.update

    def stop_in_step(step: TrainingStep, *batch: Any) -> None:
        update(step, *batch)
        stop()

    monkeypatch.setattr(TrainingStep, "update", stop_in_step)
    began = time.monotonic()
    with stop_requests() as request:
        result = execute(run, Screen("none"), in_sweep=True, stop=request)
    assert stopped
    assert result.seconds < time.monotonic() - began - 1.9


def test_out_of_patience_it_finishes_also_after_an_interruption(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = run.config.evaluate.model_copy(update={"patience": 2})
    run = replace(run, config=run.config.model_copy(update={"evaluate": evaluate}))
    monkeypatch.setattr("opt_runner.run.evaluate.numbers", lambda *rest: {"error": 50.0})
    with monkeypatch.context() as patched:
        ask_to_stop_at(2, patched)
        assert start(run).status == "pruned"
    result = start(run)
    assert (result.status, result.steps, result.best_step) == ("finished", 4, 0)
    assert outcome(result).endswith(f" after 4 steps in 0 s: {result.stopped}")
    assert run.record.weights.exists()
    assert start(run) == result
