"""opt-bench in this process, on one thread: with two, a busy machine slows tiny work a lot."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from opt_runner.bench.part import Settings
from opt_runner.cli import bench as command

Bench = Callable[..., dict[str, Any]]

HARDWARE = ("hardware.device=cpu", "hardware.threads=1")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings(tmp_path: Path, one_thread: None) -> Settings:
    return Settings(tmp_path, HARDWARE, samples=1, quick=True)


@pytest.fixture
def bench(tmp_path: Path, one_thread: None) -> Bench:
    """Run one part with `--quick`; returns its JSON file."""

    def run(part: str, *arguments: str) -> dict[str, Any]:
        tiny = ["--quick", "--samples", "1", "--threads", "1", "--device", "cpu"]
        with pytest.raises(SystemExit) as done:
            command.main([part, *tiny, "--out", str(tmp_path / "bench"), *arguments])
        assert done.value.code == 0
        content: dict[str, Any] = json.loads((tmp_path / "bench" / f"{part}.json").read_text())
        return content

    return run
