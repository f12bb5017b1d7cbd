"""The installed opt-run, run as a person runs it: in a subprocess, in a folder of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

# Small enough that a run takes a second, and still every part of the recipe.
TINY = ["model=mlp", "model.widths=[16,16]", "budget.steps=12", "hardware.threads=1"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "OPT_", "HYDRA"))}
    return {**kept, "HOME": str(tmp_path / "home"), "COLUMNS": "160", "NETRC": "/nowhere"}


@pytest.fixture
def opt_run(tmp_path: Path, environment: dict[str, str]) -> Run:
    command = Path(sys.executable).with_name("opt-run")

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, *arguments],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    return run


def results(tmp_path: Path) -> list[dict[str, Any]]:
    paths = sorted(tmp_path.glob("outputs/**/result.json"))
    return [json.loads(path.read_text()) for path in paths if ".old-" not in str(path)]
