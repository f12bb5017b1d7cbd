"""A tracker has the rows of a record, once each, also after a kill; its errors end no run."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from opt_runner.cli import track
from opt_runner.config.compose import from_arguments
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.records.stored import load
from opt_runner.run.execute import execute
from opt_runner.run.interrupt import StopRequest
from opt_runner.run.run import Run, identify
from opt_runner.tracking import send
from opt_runner.tracking.tensorboard import TensorBoardTracker
from tests.tracking.boards import close_to, of_csv, of_mlflow, of_record, of_tensorboard, rows


def run_of(folder: Path, tracking: str, *more: str) -> Run:
    return identify(from_arguments(
        f"output_dir={folder}", "model=mlp", "model.widths=[8]", "hardware=cpu", "log.every=1",
        "hardware.threads=1", "budget.steps=6", "evaluate.every=2", f"tracking={tracking}", *more,
    ))  # fmt: skip


def finished(run: Run) -> None:
    result = execute(run, Screen("plain"), in_sweep=True, stop=StopRequest())
    assert result is not None
    assert result.status == "finished", result.error


def test_tensorboard_has_hyperparameters_and_final_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = run_of(tmp_path, "tensorboard", "method=gs", "optimizer.lr=0.05")
    finished(run)
    folder = run.record.directory
    found = of_tensorboard(folder)
    assert rows(found) == close_to(of_record(folder))
    result = json.loads((folder / "result.json").read_text())
    assert found["final/train_loss"] == [(6, pytest.approx(result["train_loss"]))]
    assert [*folder.glob("*/")] == []  # one name in TensorBoard
    board = EventAccumulator(str(folder))
    board.Reload()
    content = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    assert values["optimizer.lr"].number_value == 0.05
    assert values["method.name"].string_value == "gs"
    assert "output_dir" not in values


def test_tensorboard_has_all_rows_after_the_clock_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    config = run_of(tmp_path, "tensorboard").config
    told = [{"step": step, "train_loss": float(step)} for step in range(6)]
    now = time.time()
    for clock, before, log in ((now + 86400, [], told[:4]), (now, told[:2], told[2:])):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        tracker = TensorBoardTracker(config, tmp_path, before)
        for row in log:
            tracker.log(row)
        tracker.finish(None)
    assert of_tensorboard(tmp_path)["train_loss"] == [(step, float(step)) for step in range(6)]


def test_mlflow_has_each_value_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = run_of(tmp_path, "mlflow", "note=first")
    finished(run)
    folder = run.record.directory
    expected = of_record(folder)
    assert rows(of_mlflow(folder, uri)) == expected
    own = MlflowClient(uri).get_run((folder / "mlflow.txt").read_text().strip())
    assert own.info.status == "FINISHED"
    assert own.info.run_name == run.title
    assert own.data.params["optimizer.lr"] == str(run.config.optimizer.lr)
    assert own.data.tags["mlflow.note.content"] == "first"
    assert MlflowClient(uri).get_experiment(own.info.experiment_id).name == "default"
    assert send(load(folder), run.config, Screen("none"))
    again = of_mlflow(folder, uri)
    assert rows(again) == expected
    assert [len(column) for key, column in again.items() if key.startswith("final/")].count(1) > 3


MINE = """
class Mine:
    def __init__(self, title: str, rows: list, fails: str = "nowhere"):
        self.seen, self.fails = [], fails
        made.append(self)
        self._fail("start")

    def log(self, row):
        self.seen.append(row)
        self._fail("log")

    def finish(self, result):
        self.seen.append(result)
        self._fail("finish")

    def _fail(self, where):
        if where == self.fails:
            raise RuntimeError(f"no {where}")
"""


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    module = ModuleType("my_tracker")
    made: list[Any] = []
    module.__dict__["made"] = made
    exec(MINE, module.__dict__)
    monkeypatch.setitem(sys.modules, "my_tracker", module)
    return made


def test_a_tracker_of_a_user_gets_the_rows_and_the_result(tmp_path: Path, mine: list[Any]) -> None:
    run = run_of(tmp_path, "csv", "+tracking.mine._target_=my_tracker.Mine")
    finished(run)
    (tracker,) = mine
    assert [row["step"] for row in tracker.seen[:-1]] == list(range(7))
    assert tracker.seen[-1].status == "finished"
    with pytest.raises(UserError, match=r"unknown key 'tracking.mine.fial'; did you mean"):
        run_of(tmp_path, "csv", "+tracking.mine={_target_: my_tracker.Mine, fial: log}")


@pytest.mark.parametrize("where", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_said_once_and_ends_no_run(
    tmp_path: Path, mine: list[Any], where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, "csv", f"+tracking.mine={{_target_: my_tracker.Mine, fails: {where}}}")
    finished(run)
    said = [line for line in capsys.readouterr().out.splitlines() if "tracking" in line]
    assert said == [f"tracking by mine failed (no {where}); the record on disk is complete"]
    assert of_csv(run.record.directory) == of_record(run.record.directory)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_package_is_said_before_the_run(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opt_runner.tracking.tracker.find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"^tracking={name} needs a package: pip install {name}$"):
        run_of(tmp_path, name)


def test_opt_track_sends_a_record_to_other_trackers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, "none")
    finished(run)
    folder = run.record.directory
    for _ in range(2):
        track.main([str(tmp_path), "--to", "csv"])
        assert "finished, sent" in capsys.readouterr().out
        assert of_csv(folder) == of_record(folder)
    lines = len(run.record.metrics.read_text().splitlines())
    with run.record.metrics.open("a") as file:
        file.write('{"step": 3, bad\n')
    with pytest.raises(SystemExit) as ended:
        track.main([str(tmp_path), "--to", "csv"])
    assert ended.value.code == 1
    assert f"metrics.jsonl, line {lines + 1}: " in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        track.main([str(tmp_path), "--to", "cvs"])
    assert ended.value.code == 2
    assert "--to cvs: no such tracker (csv, mlflow, " in capsys.readouterr().err


def test_opt_track_writes_beside_a_record_that_was_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = run_of(tmp_path / "first", "none")
    finished(run)
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "first", moved)
    track.main([str(moved), "--to", "wandb,tensorboard"])
    told = capsys.readouterr().out
    assert f"tensorboard --logdir {moved}" in told
    assert list(moved.glob("wandb/offline-run-*"))
    assert not (tmp_path / "first").exists()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["wandb"]),
        (["tracking=none"], []),
        (["tracking=[wandb,tensorboard]"], ["wandb", "tensorboard"]),
        (["tracking=[csv,wandb]", "tracking.project=ours", "tracking.mode=offline"],
         ["csv", "wandb"]),
    ],
)  # fmt: skip
def test_the_trackers_of_a_command(words: list[str], names: list[str]) -> None:
    tracking = from_arguments(*words).tracking
    assert [*tracking.trackers] == names
    if len(words) > 1:
        assert (tracking.project, tracking.mode) == ("ours", "offline")


@pytest.mark.slow
def test_runs_that_start_at_once_make_one_database(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    program = (
        "import sys; from tests.tracking.test_trackers import finished, run_of; "
        "from pathlib import Path; "
        "finished(run_of(Path(sys.argv[1]), 'mlflow', 'seed=' + sys.argv[2]))"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, tmp_path, str(seed)], cwd=Path(__file__).parents[2],
            env={k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")},
            stdout=subprocess.PIPE, text=True,
        )
        for seed in range(3)
    ]  # fmt: skip
    for run in runs:
        said, _ = run.communicate(timeout=200)
        assert run.returncode == 0
        assert "tracking by" not in said
    assert len([*tmp_path.glob("default/*/*/*/*/mlflow.txt")]) == 3
