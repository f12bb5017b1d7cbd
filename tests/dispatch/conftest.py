"""Sweeps of tiny runs under every launcher, as a person starts them, and what happens to them."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests import commands

COMMAND = Path(sys.executable).with_name("opt-run")
SMALL = ["model=mlp", "model.widths=[8,8]", "hardware.threads=1", "tracking=none", "log.every=10"]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session, the same in every worker of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def session_environment(shared: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "OPT_", "HYDRA"))}
    home = shared / "home"
    return {**kept, "HOME": str(home), "MPLCONFIGDIR": str(home), "NETRC": "/nowhere"}


@dataclass
class Command:
    """opt-run, started in a folder; its output goes to files there, which no kill cuts off."""

    folder: Path
    process: commands.Started

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def ends(self) -> int:
        """Its exit code."""
        return self.process.wait(timeout=250)

    def until(self, pattern: str, count: int = 1) -> list[Path]:
        """Wait for so many files, while it runs."""
        deadline = time.monotonic() + 100
        while len(found := list(self.folder.glob(pattern))) < count:
            assert self.process.poll() is None, self.stdout + self.stderr
            assert time.monotonic() < deadline, self.stdout + self.stderr
            time.sleep(0.01)
        return found

    def kill_a_worker(self) -> Path:
        """SIGKILL the process of a run that is between its first checkpoint and its end; returns
        the run's directory."""
        while True:
            for checkpoint in self.until("outputs/default/**/checkpoint.pt"):
                directory = checkpoint.parent
                if not (directory / "result.json").exists():
                    process = holder(directory)
                    assert process != self.process.pid
                    os.kill(process, signal.SIGKILL)
                    return directory


Start = Callable[..., Command]


@pytest.fixture(scope="session")
def start_in(session_environment: Mapping[str, str]) -> Start:
    def start(folder: Path, *arguments: str, **variables: str) -> Command:
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = commands.start(
                [COMMAND, *arguments], cwd=folder, env={**session_environment, **variables},
                stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip
        return Command(folder, process)

    return start


@pytest.fixture
def start(start_in: Start, tmp_path: Path) -> Start:
    return lambda *arguments, **variables: start_in(tmp_path, *arguments, **variables)


def holder(directory: Path) -> int:
    """The process that holds the run."""
    return int((directory / "lock").read_text().split()[1])


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """By method; of several seeds of it the last."""
    paths = sorted(folder.glob("outputs/default/*/*/*/*/result.json"))
    return {r["method"]: r for path in paths if (r := json.loads(path.read_text()))}


def outcomes(folder: Path) -> dict[tuple[str, int], tuple[Any, ...]]:
    """By method and seed: the result, the metrics and the weights, without what is of the clock."""
    found = {}
    for path in folder.glob("outputs/default/*/*/*/*/result.json"):
        result = json.loads(path.read_text())
        rows = [json.loads(line) for line in path.with_name("metrics.jsonl").open()]
        for timed in (result, *rows):
            timed.pop("seconds", None), timed.pop("samples_per_second", None)
        result.pop("metrics_size")  # of the times in it, too
        merged = load_file(path.with_name("weights.safetensors"))
        weights = {name: weight.tolist() for name, weight in merged.items()}
        found[result["method"], result["seed"]] = (result, rows, weights)
    return found


def trainings(folder: Path) -> list[str]:
    """A line for each time that a process began to train a run or went on with one."""
    logs = folder.glob("outputs/default/*/*/*/*/run.log")
    lines = [line for log in logs for line in log.read_text().splitlines()]
    return [line for line in lines if "resumes from step" in line or "threads); " in line]


def write_component(folder: Path, module: str, names: Iterable[str]) -> list[str]:
    """methods.py in a folder of its own and a config for each class; returns the arguments."""
    (folder / "modules").mkdir()
    (folder / "modules/mine.py").write_text(module)
    (folder / "conf/method").mkdir(parents=True)
    for name in names:
        text = f"name: {name}\n_target_: mine.{name.capitalize()}\n"
        (folder / f"conf/method/{name}.yaml").write_text(text)
    return ["--config-dir", "conf"]
