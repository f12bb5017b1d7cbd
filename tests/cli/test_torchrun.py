"""One run in several processes, as a person starts it: torchrun, srun, kills, signals, mistakes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import TINY, Run, results
from tests.cli.test_resume import outcome, wait_for_checkpoint
from tests.run.test_processes import distance, free_port

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
ONE = [
    "method=sopt", "method.round_steps=30", "model=mlp", "model.widths=[16,16]", "batch_size=60",
    "budget.steps=300", "optimizer.lr=0.01", "evaluate.every=100", "checkpoint.every_steps=30",
    "hardware=cpu", "hardware.precision=float64", "hardware.threads=1", "tracking=none",
]  # fmt: skip


def torchrun(
    tmp_path: Path, environment: dict[str, str], *arguments: str, restarts: int = 0
) -> subprocess.Popen[str]:
    """Two processes."""
    return subprocess.Popen(
        [
            BIN / "torchrun", "--nproc-per-node=2", f"--max-restarts={restarts}",
            f"--master-port={free_port()}", "-m", "opt_runner", *arguments,
        ],
        cwd=tmp_path, env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def process_of_rank(parent: int, rank: int) -> int:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in variables:
            return int(child)
    raise AssertionError(f"no process of rank {rank} among {children}")


def flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Of nested dictionaries, which pytest.approx does not take."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        found |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found


def assert_same_record(tmp_path: Path, name: str, expected: str) -> None:
    """The same directory but for the experiment's name, the same metrics and weights."""
    (directory,) = (path.parent for path in tmp_path.glob(f"outputs/{name}/**/metrics.jsonl"))
    (other,) = (path.parent for path in tmp_path.glob(f"outputs/{expected}/**/metrics.jsonl"))
    assert directory.name == other.name
    rows, weights = outcome(tmp_path, name)
    expected_rows, expected_weights = outcome(tmp_path, expected)
    assert len(rows) == len(expected_rows)
    for row, expected_row in zip(rows, expected_rows, strict=True):
        for one in (row, expected_row):
            error = one.pop("orthogonality_error", None)
            assert error is None or error < 1e-13
        assert flat(row) == pytest.approx(flat(expected_row), rel=1e-9)
    assert weights.keys() == expected_weights.keys()
    for key, tensor in weights.items():
        assert distance(tensor, expected_weights[key]) < 1e-9, key


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_run_in_several_processes_is_the_run_in_one(
    opt_run: Run, tmp_path: Path, environment: dict[str, str]
) -> None:
    assert opt_run(*ONE, "experiment_name=alone").returncode == 0

    killed = torchrun(tmp_path, environment, *ONE, "experiment_name=killed", restarts=1)
    wait_for_checkpoint(tmp_path, "killed")
    os.kill(process_of_rank(killed.pid, 1), signal.SIGKILL)
    stdout, stderr = killed.communicate(timeout=200)
    assert killed.returncode == 0, stderr
    assert "another process of the run has ended or cannot be reached" in stdout
    assert "resumes from step" in stdout
    assert stdout.count("finished, test error") == 1
    assert_same_record(tmp_path, "killed", "alone")
    (result,) = (json.loads(p.read_text()) for p in tmp_path.glob("outputs/killed/**/result.json"))
    assert result["device"] == "cpu (1 threads), 2 processes"

    # A signal to one process stops all; one process goes on.
    stopped = torchrun(tmp_path, environment, *ONE, "experiment_name=stopped")
    wait_for_checkpoint(tmp_path, "stopped")
    os.kill(process_of_rank(stopped.pid, 1), signal.SIGTERM)
    stdout, stderr = stopped.communicate(timeout=200)
    assert stopped.returncode == 1
    assert stderr.count("opt-run: interrupted; the same command resumes") == 1
    (path,) = tmp_path.glob("outputs/stopped/**/result.json")
    assert json.loads(path.read_text())["status"] == "interrupted"
    again = opt_run(*ONE, "experiment_name=stopped")
    assert again.returncode == 0, again.stderr
    assert "resumes from step" in again.stdout
    assert_same_record(tmp_path, "stopped", "alone")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["batch_size=61"], "opt-run: batch_size=61 cannot be shared by 2 processes"),
        (["batch_sise=61"], "opt-run: unknown key 'batch_sise'; did you mean 'batch_size'?"),
        (["-m", "seed=0,1"], "opt-run: torchrun starts the processes of one run"),
    ],
)
def test_a_mistake_is_told_once(
    tmp_path: Path, environment: dict[str, str], arguments: list[str], says: str
) -> None:
    mistaken = torchrun(tmp_path, environment, *TINY, "tracking=none", *arguments)
    stdout, stderr = mistaken.communicate(timeout=200)
    assert mistaken.returncode == 1
    assert stdout == ""
    assert stderr.count("opt-run:") == 1
    assert says in stderr
    assert not results(tmp_path)


def test_processes_of_slurm(tmp_path: Path, environment: dict[str, str]) -> None:
    port = str(free_port())
    tasks = [
        subprocess.Popen(
            [BIN / "opt-run", *TINY, "tracking=none", "hardware.processes=slurm"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={
                **environment, "SLURM_PROCID": str(task), "SLURM_NTASKS": "2",
                "SLURM_LOCALID": str(task), "SLURM_JOB_ID": "1", "MASTER_PORT": port,
            },
        )
        for task in range(2)
    ]  # fmt: skip
    outputs = [task.communicate(timeout=200) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], outputs
    assert "finished, test error" in outputs[0][0]
    assert outputs[1] == ("", "")
    (result,) = results(tmp_path)
    assert result["device"].endswith("2 processes")


def test_slurm_without_srun_is_a_mistake(opt_run: Run, tmp_path: Path) -> None:
    done = opt_run(*TINY, "tracking=none", "hardware.processes=slurm")
    assert done.returncode == 2
    assert "SLURM_PROCID and SLURM_NTASKS are not set; start the processes with srun" in done.stderr
    swept = opt_run("-m", *TINY, "tracking=none", "hardware.processes=slurm")
    assert swept.returncode == 2
    assert "this launcher starts one process a run" in swept.stderr
    assert not results(tmp_path)
