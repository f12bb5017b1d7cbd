"""W&B's service may die or hang: the run ends well, and so does the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml

from opt_runner.cli import track
from opt_runner.config.compose import from_arguments
from opt_runner.records.record import Record
from opt_runner.tracking import wandb
from tests.slow import slow

PROGRAM = """
import os, sys
from pathlib import Path
from opt_runner import tracking
from opt_runner.config.compose import from_arguments
from opt_runner.console.screen import Screen
from opt_runner.records.record import Record
from opt_runner.records.result import Result
from opt_runner.tracking import wandb_service

signum = int(sys.argv[1])
wandb_service._MOST_SECONDS = 20.0
config = from_arguments("model=mlp")

def hit():
    (service,) = wandb_service._services()
    os.kill(service, signum)

for number in range(2):
    record = Record(Path(f"run{number}"))
    record.directory.mkdir()
    with tracking.start(config, "signature", record, Screen("plain")) as tracker:
        tracker.log({"step": 0, "test_error": 90.0})
        if number == 0:
            hit()
        tracker.log({"step": 1, "test_error": 80.0})
        tracker.finish(Result("abc", "gs", "mlp", "digits", 0, "finished"))
hit()
print("ended")
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("signum", [signal.SIGKILL, *slow(signal.SIGSTOP)])
def test_a_service_that_dies_or_hangs_ends_the_tracking_alone(
    tmp_path: Path, signum: signal.Signals
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int(signum))], cwd=tmp_path, timeout=200,
        env={**environment, "WANDB_MODE": "offline", "HOME": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, ended = done.stdout.splitlines()
    assert said.startswith("tracking by wandb failed (")
    assert ("no answer within 20 s" in said) == (signum == signal.SIGSTOP)
    assert ended == "ended"


def test_a_record_that_wandb_does_not_take_is_not_said_to_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "outputs/default/digits/mlp/gs/seed0-0123456789ab"
    directory.mkdir(parents=True)
    config = from_arguments("method=gs", "model=mlp", f"output_dir={tmp_path}/outputs")
    (directory / "config.yaml").write_text(yaml.safe_dump(config.content))
    Record(directory).append_metrics({"step": 0, "test_error": 90.0})
    gone = Mock(side_effect=ConnectionError("gone"))
    for fails in (gone, Mock(return_value=Mock(log=gone))):
        monkeypatch.setattr(wandb, "start_run", fails)
        with pytest.raises(SystemExit) as ended:
            track.main([str(tmp_path / "outputs")])
        assert ended.value.code == 1
        assert "gs mlp digits seed 0: not finished, not sent" in capsys.readouterr().out
