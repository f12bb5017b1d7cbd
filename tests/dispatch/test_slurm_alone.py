"""What needs no Slurm: its answers read, the launcher's keys checked."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import pytest
import yaml

from opt_runner.config.compose import compose, conf_dir
from opt_runner.config.schema import Config
from opt_runner.dispatch.loop import Task
from opt_runner.dispatch.slurm import queue
from opt_runner.dispatch.slurm.options import SlurmOptions
from opt_runner.dispatch.slurm.submission import Submitted
from opt_runner.errors import UserError
from opt_runner.records.record import Record
from opt_runner.records.result import Result

ANSWER = """\
12_0|RUNNING|None|digits-1a2b3c4d|/home/me/outputs/.sweep/digits-1a2b3c4d/slurm-x/file.sh
12_1|PENDING|Resources|digits-1a2b3c4d|/home/me/outputs/.sweep/digits-1a2b3c4d/slurm-x/file.sh
12_2|COMPLETED|None|digits-1a2b3c4d|
13|CANCELLED|None|digits-1a2b3c4d gs cnn6 | seed 0|(null)
"""


def options(**given: Any) -> SlurmOptions:
    content = yaml.safe_load((conf_dir() / "hydra/launcher/slurm.yaml").read_text())
    content = {key: value for key, value in content.items() if not key.startswith("_")}
    return SlurmOptions.read({**content, **given})


def test_the_queue_is_read() -> None:
    jobs = queue.read(ANSWER)
    assert [job.live for job in jobs.values()] == [True, True, False, False]
    assert jobs["12_1"].reason == "Resources"
    assert jobs["13"].name == "digits-1a2b3c4d gs cnn6 | seed 0"
    assert Path(jobs["12_0"].script).parent.name == "slurm-x"


def test_an_array_is_named_whole_only_where_all_of_it_that_lives_is_meant() -> None:
    jobs = queue.read(ANSWER)
    assert queue.shortest(["12_1", "12_0"], jobs) == ["12"]
    assert queue.shortest(["12_1"], jobs) == ["12_1"]
    assert queue.shortest(["14_0", "14_1", "9"], jobs) == ["9", "14"]


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lines: str) -> None:
    script = tmp_path / name
    script.write_text(f"#!/bin/sh\n{lines}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    queue.has_gpus.cache_clear()


def test_a_partition_has_gpus_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "sinfo", r"printf 'a|(null)\nb*|gpu:a100:4(S:0-1),tmp:1\n'")
    assert queue.has_gpus(None)
    fake(tmp_path, monkeypatch, "sinfo", r"printf 'a*|(null)\nb|gpu:a100:4(S:0-1),tmp:1\n'")
    assert not queue.has_gpus(None)


def test_a_controller_that_is_down_is_no_empty_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, monkeypatch, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(queue.NoAnswer, match="Unable to contact"):
        queue.jobs()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"timeout_min": 0}, "hydra.launcher.timeout_min: must be greater than 0, got 0"),
        ({"mem_gb": "much"}, "hydra.launcher.mem_gb: must be a valid number"),
        ({"setup": "module load"}, "hydra.launcher.setup: must be a valid tuple"),
        ({"timeout_min": 1}, r"signal_delay_s \(90 s\) must be below timeout_min \(1 min\)"),
    ],
)
def test_a_wrong_value_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options(**given)


def test_a_result_ends_a_job_only_where_nothing_is_left_to_do(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(record=Record(tmp_path))
    task = Task(run, run)

    def ends(status: Any, before: bool) -> bool:
        run.record.write_result(Result("abc", "gs", "mlp", "digits", 0, status=status))
        written = run.record.result.stat().st_mtime_ns if before else None
        return Submitted(task, "1", tmp_path / "log", written).result() is not None

    assert Submitted(task, "1", tmp_path / "log", None).result() is None
    # One that another process finished in the meantime counts, too: the job only looks at it.
    assert [ends(status, False) for status in ("finished", "failed", "interrupted")] == [
        True, True, False,
    ]  # fmt: skip
    assert [ends(status, True) for status in ("diverged", "failed", "pruned")] == [
        True, False, False,
    ]  # fmt: skip
    run.record.result.write_text("{")
    assert Submitted(task, "1", tmp_path / "log", None).result() is None


def run_on(device: str) -> Config:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", [f"hardware.device={device}", "hardware.threads=3"])


def test_a_run_asks_for_the_device_that_its_config_then_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(device: str, **given: Any) -> tuple[str, Any]:
        placed = options(**given).placed(run_on(device))
        parameters = options(**given).of_submitit(placed, "name")
        return placed.hardware.device, parameters.get("gpus_per_node")

    fake(tmp_path, monkeypatch, "sinfo", "echo 'a*|gpu:4'")
    assert asked("auto") == ("cuda", 1)
    assert asked("cpu") == ("cpu", None)
    assert asked("auto", gpus_per_node=0) == ("cpu", None)
    assert asked("auto", gpus_per_node="a100:1") == ("cuda", "a100:1")
    fake(tmp_path, monkeypatch, "sinfo", "echo 'a*|(null)'")
    assert asked("auto") == ("cpu", None)
    assert asked("cuda") == ("cuda", 1)
    with pytest.raises(UserError, match="which GPU a job gets is Slurm's choice"):
        asked("cuda:1")


def test_cores_are_asked_for_of_the_job_and_of_its_step() -> None:
    parameters = options().of_submitit(run_on("cpu"), "name")
    assert parameters["cpus_per_task"] == 3
    assert parameters["slurm_srun_args"] == ["--cpus-per-task=3"]


def test_the_defaults_are_right_and_an_account_may_be_a_number() -> None:
    assert options(account=1234).account == "1234"
