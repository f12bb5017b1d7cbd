"""The benchmarks in this process, on one thread: with two, a busy machine slows tiny work a lot."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.__main__ import main

Bench = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bench(tmp_path: Path, one_thread: None) -> Bench:
    """Run one part with `--quick`; returns the rows of its JSON file."""

    def run(part: str, *arguments: str) -> list[dict[str, Any]]:
        tiny = ["--quick", "--samples", "1", "--threads", "1", "--device", "cpu"]
        assert main([part, *tiny, "--out", str(tmp_path), *arguments]) == 0
        content = json.loads((tmp_path / f"{part}.json").read_text())
        assert content["command"].startswith(f"python -m benchmarks {part} --quick")
        assert content["processor"]
        rows: list[dict[str, Any]] = content["rows"]
        assert not [row for row in rows if row.get("error")]
        return rows

    return run
