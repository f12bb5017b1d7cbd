"""W&B's service may die or hang: the run ends well, and so does the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
import hydra
from opt_runner.config import compose
from opt_runner.console import wandb, wandb_service
from opt_runner.console.screen import Screen
from opt_runner.records.result import Result

signum = int(sys.argv[1])
wandb_service._MOST_SECONDS = 20.0
with hydra.initialize_config_dir(str(compose.conf_dir()), version_base="1.3"):
    config = compose.read(hydra.compose("config", ["model=mlp"]))

def hit():
    (service,) = wandb_service._services()
    os.kill(service, signum)

for number in range(2):
    with wandb.start(config, lambda: f"run{number}", "signature", Screen("plain")) as tracker:
        tracker.log({"step": 0, "test_error": 90.0})
        if number == 0:
            hit()
        tracker.log({"step": 1, "test_error": 80.0})
        tracker.finish(Result("abc", "gs", "mlp", "digits", 0, "finished"))
hit()
print("ended")
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "signum", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)]
)
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
    assert said.startswith("W&B failed (")
    assert ("no answer within 20 s" in said) == (signum == signal.SIGSTOP)
    assert ended == "ended"
