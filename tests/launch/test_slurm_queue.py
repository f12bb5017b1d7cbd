"""What needs no Slurm: its answers read, the launcher's keys checked."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from opt_runner.config.compose import conf_dir
from opt_runner.errors import UserError
from opt_runner.launch import slurm_queue
from opt_runner.launch.slurm import Options

ANSWER = """\
12_0|RUNNING|None|digits-1a2b3c4d
12_1|PENDING|Resources|digits-1a2b3c4d
12_2|COMPLETED|None|digits-1a2b3c4d
13|CANCELLED|None|digits-1a2b3c4d gs cnn6 | seed 0
"""


def options(**given: Any) -> Options:
    content = yaml.safe_load((conf_dir() / "hydra/launcher/slurm.yaml").read_text())
    content = {key: value for key, value in content.items() if not key.startswith("_")}
    return Options.read({**content, **given})


def test_the_queue_is_read() -> None:
    jobs = slurm_queue.read(ANSWER)
    assert [job.live for job in jobs.values()] == [True, True, False, False]
    assert (jobs["12_1"].reason, jobs["12_1"].array) == ("Resources", "12")
    assert jobs["13"].name == "digits-1a2b3c4d gs cnn6 | seed 0"


def test_an_array_is_named_whole_only_where_all_of_it_that_lives_is_meant() -> None:
    jobs = slurm_queue.read(ANSWER)
    assert slurm_queue.shortest(["12_1", "12_0"], jobs) == ["12"]
    assert slurm_queue.shortest(["12_1"], jobs) == ["12_1"]
    assert slurm_queue.shortest(["14_0", "14_1", "9"], jobs) == ["9", "14"]


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lines: str) -> None:
    script = tmp_path / name
    script.write_text(f"#!/bin/sh\n{lines}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    slurm_queue.has_gpus.cache_clear()


def test_a_partition_has_gpus_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "sinfo", r"printf 'a|(null)\nb*|gpu:a100:4(S:0-1),tmp:1\n'")
    assert slurm_queue.has_gpus(None)
    fake(tmp_path, monkeypatch, "sinfo", r"printf 'a*|(null)\nb|gpu:a100:4(S:0-1),tmp:1\n'")
    assert not slurm_queue.has_gpus(None)


def test_a_controller_that_is_down_is_no_empty_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, monkeypatch, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(slurm_queue.NoAnswer, match="Unable to contact"):
        slurm_queue.jobs()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"timeout_min": 0}, "hydra.launcher.timeout_min: must be greater than 0, got 0"),
        ({"mem_gb": "much"}, "hydra.launcher.mem_gb: must be a valid number"),
        ({"setup": "module load"}, "hydra.launcher.setup: must be a valid tuple"),
    ],
)
def test_a_wrong_value_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options(**given)


def test_the_defaults_are_right_and_an_account_may_be_a_number() -> None:
    assert options(account=1234).account == "1234"
