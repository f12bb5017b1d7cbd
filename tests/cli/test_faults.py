"""What goes wrong around a run: disks, files, other processes, secrets."""

import json
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import commands
from tests.cli.conftest import (
    COMMAND,
    ONE,
    SWEEP,
    TINY,
    Finished,
    Run,
    outcome,
    results,
    start,
    wait_for_checkpoint,
)


def cut_after_a_checkpoint(tmp_path: Path, environment: dict[str, str], name: str) -> Path:
    """Kill a run after a checkpoint; returns its directory."""
    cut = start(tmp_path, environment, f"experiment_name={name}")
    wait_for_checkpoint(tmp_path, name)
    cut.kill()
    cut.wait()
    (checkpoint,) = tmp_path.glob(f"outputs/{name}/**/checkpoint.pt")
    return checkpoint.parent


@pytest.mark.slow
def test_a_truncated_checkpoint_is_set_aside_and_the_run_ends_the_same(
    opt_run: Run, finished: Finished, tmp_path: Path, environment: dict[str, str]
) -> None:
    directory = cut_after_a_checkpoint(tmp_path, environment, "cut")
    os.truncate(directory / "checkpoint.pt", 1000)
    again = opt_run(*ONE, "experiment_name=cut")
    assert again.returncode == 0, again.stderr
    assert "checkpoint.pt is damaged" in again.stdout
    assert (directory / "checkpoint.pt.damaged-1").stat().st_size == 1000
    finished(*ONE, "experiment_name=uncut")
    rows, _ = outcome(tmp_path, "cut")
    uncut_rows, _ = outcome(tmp_path, "uncut")
    assert rows == uncut_rows


@pytest.mark.slow
def test_the_checkpoint_of_another_run_is_a_mistake_and_stays(
    opt_run: Run, tmp_path: Path, environment: dict[str, str]
) -> None:
    directory = cut_after_a_checkpoint(tmp_path, environment, "cut")
    content = (directory / "checkpoint.pt").read_bytes()
    assert opt_run(*ONE, "seed=1").returncode == 0
    (other,) = tmp_path.glob("outputs/default/**/seed1-*")
    for name in ("result.json", "checkpoint.previous.pt"):
        (other / name).unlink(missing_ok=True)
    (other / "checkpoint.pt").write_bytes(content)
    for arguments in ([], ["-m"]):
        done = opt_run(*ONE, "seed=1", *arguments)
        said = done.stderr if not arguments else done.stdout
        assert done.returncode == (2 if not arguments else 1)
        assert "is the checkpoint of another run" in said
        assert "Traceback" not in done.stderr
        assert (other / "checkpoint.pt").read_bytes() == content


def test_a_damaged_result_is_set_aside(opt_run: Run, finished: Finished, tmp_path: Path) -> None:
    finished(*TINY, "tracking=none", "checkpoint.every_steps=5")
    (path,) = tmp_path.glob("outputs/**/result.json")
    first = json.loads(path.read_text())
    path.write_text(path.read_text()[:50])
    again = opt_run(*TINY, "tracking=none")
    assert again.returncode == 0, again.stderr
    assert "set aside as result.json.damaged-1" in again.stdout
    assert json.loads(path.read_text())["test_error"] == first["test_error"]


def test_damaged_metrics_of_a_finished_run_are_said(
    opt_run: Run, finished: Finished, tmp_path: Path
) -> None:
    finished(*TINY, "tracking=none", "checkpoint.every_steps=5")
    (path,) = tmp_path.glob("outputs/**/metrics.jsonl")
    assert "damaged" not in opt_run(*TINY, "tracking=none").stdout
    path.write_text(path.read_text()[:-10])
    again = opt_run(*TINY, "tracking=none")
    assert again.returncode == 0
    assert "metrics.jsonl is damaged and has no curves to draw; rerun=true" in again.stdout


def limited(bytes_a_file: int) -> None:
    """What a full disk does to the one file that grows: EFBIG instead of ENOSPC."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_a_file, bytes_a_file))


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_ends_the_run_and_loses_nothing(
    opt_run: Run, tmp_path: Path, environment: dict[str, str]
) -> None:
    arguments = [*TINY, "tracking=none", "checkpoint.every_steps=3"]
    done = subprocess.run(
        [COMMAND, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False, preexec_fn=lambda: limited(10_000),
    )  # fmt: skip
    assert done.returncode == 1
    assert "checkpoint.pt" in done.stdout
    assert "make room, then run the command again" in done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    (result,) = results(tmp_path)
    assert result["status"] == "failed"
    again = opt_run(*arguments)
    assert again.returncode == 0, again.stderr
    assert results(tmp_path)[0]["status"] == "finished"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 KiB of its own."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_leaves_every_earlier_file_whole(
    opt_run: Run, tmp_path: Path, small_disk: Path
) -> None:
    arguments = [*TINY, "tracking=none", "model.widths=[8,8]"]
    assert opt_run(*arguments).returncode == 0
    whole = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    free = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(b"0" * (free.f_bavail - 3) * free.f_frsize)
    for _ in range(2):
        done = opt_run("-m", *arguments, "seed=0,1,2")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr + done.stdout
        assert {path: path.read_bytes() for path in whole if path.name != "lock"} == {
            path: content for path, content in whole.items() if path.name != "lock"
        }
    (small_disk / "ballast").unlink()
    assert opt_run("-m", *arguments, "seed=0").returncode == 0


@pytest.mark.slow
def test_a_search_on_a_full_disk_has_all_its_trials_once_there_is_room(
    opt_run: Run, small_disk: Path
) -> None:
    arguments = [
        "-m", *TINY, "tracking=none", "hydra/sweeper=optuna", "hydra.sweeper.trials=5",
        "dataset.validation=0.2", "optimizer.lr=interval(0.01,0.1)", "plan.measure=false",
    ]  # fmt: skip
    full = opt_run(*arguments)
    assert full.returncode == 1
    assert "No space left on device; make room, then run the command again" in full.stdout
    assert "Traceback" not in full.stdout + full.stderr
    assert "Logging error" not in full.stdout + full.stderr
    subprocess.run(["mount", "-o", "remount,size=5m", str(small_disk)], check=True)
    again = opt_run(*arguments)
    assert again.returncode == 0, again.stdout
    assert "trials: 5 finished" in again.stdout


@pytest.mark.slow
def test_a_run_that_another_process_has_is_left_if_wished(
    opt_run: Run, tmp_path: Path, environment: dict[str, str]
) -> None:
    running = start(tmp_path, environment, "experiment_name=cut")
    wait_for_checkpoint(tmp_path, "cut")
    running.send_signal(signal.SIGSTOP)  # else it may end before the other begins
    done = opt_run(*ONE, "experiment_name=cut", "when_locked=leave")
    assert running.poll() is None
    assert f"left to process {running.pid} on" in done.stdout
    assert done.returncode == 1
    running.kill()
    running.wait()
    again = opt_run(*ONE, "experiment_name=cut", "when_locked=leave")
    assert again.returncode == 0, "the lock of a dead process holds nobody up"


@pytest.mark.slow
def test_a_pre_empted_job_is_requeued_and_ends_the_same(
    finished: Finished, tmp_path: Path, environment: dict[str, str]
) -> None:
    """submitit's local executor requeues on the same signal as its Slurm executor."""
    from submitit.core.job_environment import JobEnvironment

    process = start(tmp_path, environment, "experiment_name=cut", "-m",
                    "hydra/launcher=submitit_local")  # fmt: skip
    wait_for_checkpoint(tmp_path, "cut")
    (lock,) = tmp_path.glob("outputs/cut/**/lock")
    os.kill(int(lock.read_text().split()[1]), JobEnvironment._usr_sig())
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    (log,) = tmp_path.glob("outputs/cut/**/run.log")
    assert "resumes from step" in log.read_text()
    finished(*ONE, "experiment_name=uncut")
    rows, _ = outcome(tmp_path, "cut")
    uncut_rows, _ = outcome(tmp_path, "uncut")
    assert rows == uncut_rows


SLOW = """
import time
from opt_runner.datasets import Digits

class Slow(Digits):
    def load(self):
        print("loading", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step(
    tmp_path: Path, environment: dict[str, str], signum: signal.Signals
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    process = commands.start(
        [COMMAND, *TINY, "tracking=none", "dataset._target_=slow.Slow"],
        cwd=tmp_path, env={**environment, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    while process.stdout.readline() != "loading\n":
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + signum
    assert stderr.strip() == "opt-run: interrupted; the same command resumes"


@pytest.mark.slow
def test_no_secret_is_written_or_said(opt_run: Run, tmp_path: Path) -> None:
    key = "0123456789abcdef0123456789abcdef01234567"
    done = opt_run("-m", *TINY, "method=gs,cayley", WANDB_API_KEY=key, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert key not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if key.encode() in path.read_bytes()]


def test_a_failing_set_up_leaves_the_finished_record_alone(opt_run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from opt_runner.networks import MLP as Mine\n")
    mine = [*TINY, "tracking=none", "model._target_=mine.Mine"]
    assert opt_run(*mine, PYTHONPATH=str(tmp_path)).returncode == 0
    (path,) = tmp_path.glob("outputs/**/result.json")
    whole = path.read_bytes()
    (tmp_path / "mine.py").write_text(
        "class Mine:\n"
        "    def __init__(self, in_channels, image_size, num_classes, bn_momentum, **options):\n"
        "        raise MemoryError('too large')\n"
    )
    done = opt_run(*SWEEP, *mine, "rerun=true", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    (old,) = tmp_path.glob("outputs/**/*.old-1/result.json")
    assert old.read_bytes() == whole


@pytest.mark.slow
def test_a_network_that_changed_since_the_checkpoint_is_said(
    opt_run: Run, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "mine.py").write_text("from opt_runner.networks import MLP as Mine\n")
    mine = [*ONE, "model._target_=mine.Mine", "budget.steps=100000"]
    environment["PYTHONPATH"] = str(tmp_path)
    killed = start(tmp_path, environment, *mine)
    wait_for_checkpoint(tmp_path, "default")
    killed.kill()
    killed.wait()
    (tmp_path / "mine.py").write_text(
        "from opt_runner.networks import MLP\n"
        "class Mine(MLP):\n"
        "    def __init__(self, in_channels, image_size, num_classes, bn_momentum, **options):\n"
        "        super().__init__(in_channels, image_size, num_classes, (12, 12), bn_momentum)\n"
    )
    done = opt_run(*mine, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "does not fit the network, whose code may have changed" in done.stderr
    assert "Traceback" not in done.stderr
