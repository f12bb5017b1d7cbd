"""A run that is cut off goes on from its checkpoint and ends as an uncut one."""

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import ONE, Finished, Run, outcome, results, start, wait_for_checkpoint
from tests.slow import slow


@pytest.mark.parametrize("signum", [signal.SIGKILL, *slow(signal.SIGTERM, signal.SIGINT)])
def test_a_cut_run_ends_as_an_uncut_one(
    opt_run: Run,
    finished: Finished,
    tmp_path: Path,
    environment: dict[str, str],
    signum: signal.Signals,
) -> None:
    cut = start(tmp_path, environment, "experiment_name=cut")
    wait_for_checkpoint(tmp_path, "cut")
    cut.send_signal(signum)
    _, stderr = cut.communicate(timeout=60)
    if signum == signal.SIGKILL:
        assert cut.returncode == -signal.SIGKILL
    else:
        assert cut.returncode == 128 + signum
        assert stderr.strip() == "opt-run: interrupted; the same command resumes"
        assert results(tmp_path)[0]["status"] == "interrupted"
    again = opt_run(*ONE, "experiment_name=cut")
    assert again.returncode == 0, again.stderr
    assert "resumes from step" in again.stdout
    finished(*ONE, "experiment_name=uncut")
    (rows, weights), (uncut_rows, uncut_weights) = (outcome(tmp_path, n) for n in ("cut", "uncut"))
    assert rows == uncut_rows
    assert weights.keys() == uncut_weights.keys()
    assert all(torch.equal(weights[key], uncut_weights[key]) for key in weights)


@pytest.mark.slow
def test_two_processes_on_one_run_train_it_once(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    processes = [start(tmp_path, environment) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("finished, test error" in text for text in outputs) == 1
    assert sum("finished before, skipped" in text for text in outputs) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_said(opt_run: Run, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir(mode=0o500)
    done = opt_run(*ONE)
    assert done.returncode == 2
    assert "cannot write to" in done.stderr
