"""A killed run goes on in its trackers."""

import signal
from pathlib import Path

import pytest

from tests.cli.conftest import ONE, Run, start, wait_for_checkpoint
from tests.tracking.boards import close_to, of_csv, of_record, of_tensorboard, rows


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_same_files(
    opt_run: Run,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    words = ["tracking=[tensorboard,csv]", "log.every=10", "checkpoint.every_seconds=0.1"]
    cut = start(tmp_path, environment, *words)
    wait_for_checkpoint(tmp_path, "default")
    (record,) = tmp_path.glob("outputs/default/*/*/*/*")
    before = sum(1 for _ in (record / "metrics.jsonl").open())
    while sum(1 for _ in (record / "metrics.jsonl").open()) < before + 3:
        assert cut.poll() is None
    cut.send_signal(signal.SIGKILL)
    cut.communicate(timeout=60)
    done = opt_run(*ONE, *words)
    assert done.returncode == 0, done.stderr
    assert "resumes from step" in done.stdout
    assert "TensorBoard: tensorboard --logdir outputs" in done.stdout
    expected = of_record(record)
    assert of_csv(record) == expected
    assert rows(of_tensorboard(record)) == close_to(expected)
