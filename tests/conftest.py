"""What holds for all tests, whether one process runs them or several side by side."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.gpu import Gpu

# The workers of pytest-xdist share the cores: each of them, and each command that it starts, has
# its part. It must be set before torch is imported. A test about threads sets their number itself.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))


def pytest_unconfigure() -> None:
    from tests import commands

    commands.end_server()


@pytest.fixture(autouse=True)
def _no_sweep_before() -> Iterator[None]:
    """A search tells its workers by a variable what differs; the next test is in no search."""
    yield
    os.environ.pop("OPT_RUNNER_SWEEP", None)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator["Gpu"]:
    """A GPU, real or simulated, on which `hardware=cuda` runs."""
    from tests.gpu import found_or_simulated  # imports torch

    with found_or_simulated(monkeypatch) as gpu:
        yield gpu
