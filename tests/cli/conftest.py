"""The installed opt-run, run as a person runs it: in a process and in a folder of its own."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from tests import commands

Run = Callable[..., subprocess.CompletedProcess[str]]
Finished = Callable[..., str]

COMMAND = Path(sys.executable).with_name("opt-run")
# Small enough that a run takes a second, and still every part of the recipe.
TINY = ["model=mlp", "model.widths=[16,16]", "budget.steps=12", "hardware.threads=1"]
# A sweep whose runs are all in one worker: each worker imports torch, which takes longer than they.
SWEEP = ["-m", "hydra.launcher.slots=1"]
# Long enough to be cut off between its first checkpoint and its end.
ONE = [
    "method=sopt", "method.round_steps=30", "model=mlp", "model.widths=[32,32]", "tracking=none",
    "budget.steps=600", "hardware.threads=1", "checkpoint.every_seconds=0.1", "evaluate.every=150",
]  # fmt: skip


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of this session, the same in every worker of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture
def environment(tmp_path: Path, shared: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "OPT_", "HYDRA"))}
    # In a new HOME matplotlib would look through all fonts again.
    fonts = {"MPLCONFIGDIR": str(shared / "matplotlib")}
    return {**kept, **fonts, "HOME": str(tmp_path / "home"), "COLUMNS": "160", "NETRC": "/nowhere"}


@pytest.fixture
def opt_run(tmp_path: Path, environment: dict[str, str]) -> Run:
    def run(
        *arguments: str, cwd: Path = tmp_path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return commands.run([COMMAND, *arguments], cwd=cwd, env={**environment, **variables})

    return run


@pytest.fixture
def finished(opt_run: Run, tmp_path: Path, shared: Path) -> Finished:
    """`finished(*arguments)`: outputs/ as this opt-run command leaves it; returns its stdout.

    The command runs once for all tests that need what it leaves; each has a copy of its own.
    """

    def copy(*arguments: str) -> str:
        made = shared / f"finished-{hashlib.sha256(repr(arguments).encode()).hexdigest()[:12]}"
        stdout = made / "stdout"
        with FileLock(f"{made}.lock"):
            if not stdout.exists():
                made.mkdir()
                done = opt_run(*arguments, cwd=made)
                assert done.returncode == 0, done.stderr
                stdout.write_text(done.stdout)
        shutil.copytree(made / "outputs", tmp_path / "outputs", dirs_exist_ok=True)
        return stdout.read_text()

    return copy


def start(tmp_path: Path, environment: dict[str, str], *arguments: str) -> commands.Started:
    return commands.start([COMMAND, *ONE, *arguments], cwd=tmp_path, env=environment)


def wait_for_checkpoint(tmp_path: Path, name: str) -> None:
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(f"outputs/{name}/**/checkpoint.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def results(tmp_path: Path) -> list[dict[str, Any]]:
    paths = sorted(tmp_path.glob("outputs/**/result.json"))
    return [json.loads(path.read_text()) for path in paths if ".old-" not in str(path)]


def outcome(tmp_path: Path, name: str) -> tuple[list[dict], dict[str, torch.Tensor]]:
    (metrics,) = tmp_path.glob(f"outputs/{name}/**/metrics.jsonl")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    for row in rows:
        row.pop("seconds", None), row.pop("samples_per_second", None)
    return rows, load_file(metrics.with_name("weights.safetensors"))
