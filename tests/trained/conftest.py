"""Records of finished runs, made once for the tests of this folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from opt_runner.config.compose import from_arguments
from opt_runner.console.screen import Screen
from opt_runner.run.execute import execute
from opt_runner.run.interrupt import StopRequest
from opt_runner.run.run import Run, identify

SMALL = ["hardware=cpu", "hardware.threads=1", "tracking=none", "budget.steps=40"]


def finish(*arguments: str) -> Run:
    run = identify(from_arguments(*SMALL, *arguments))
    threads = torch.get_num_threads()
    result = execute(run, Screen("none"), in_sweep=False, stop=StopRequest())
    torch.set_num_threads(threads)
    assert result is not None
    assert result.status == "finished"
    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """A finished run of these arguments; it must be left as it is."""
    made: dict[tuple[str, ...], Run] = {}

    def of(*arguments: str) -> Run:
        if arguments not in made:
            folder = tmp_path_factory.mktemp("runs")
            made[arguments] = finish(f"output_dir={folder}", *arguments)
        return made[arguments]

    return of


@pytest.fixture(scope="session")
def cnn(runs: Callable[..., Run]) -> Run:
    arguments = ["model=cnn6", "model.widths=[8,8,8]", "model.fc_width=8", "optimizer.lr=0.05"]
    run = runs("method=ogd", *arguments)
    result = run.record.read_result()
    assert result is not None
    assert result.test_error is not None
    assert result.test_error < 70, "a network that gives zeros would agree with anything"
    return run


@pytest.fixture
def record(cnn: Run) -> Path:
    return cnn.record.directory
