"""hydra/launcher=ray: what a run gets, what is refused, signals."""

import signal
from pathlib import Path
from typing import Any

import pytest

from opt_runner.config.schema import Hardware
from opt_runner.errors import UserError
from tests.dispatch.conftest import SMALL, Start, results

pytest.importorskip("ray", reason="Ray is not installed: pip install ray")

from opt_runner.dispatch.ray import RayOptions, Resources

NO_OPTIONS = {
    "address": None, "gpus_per_run": None, "cpus_per_run": None, "retries": 1, "init": None,
}  # fmt: skip


def hardware(device: str = "auto", threads: int | None = None) -> Hardware:
    return Hardware(
        device=device, precision="float32", threads=threads, channels_last=False, compile=False,
        reuse_memory=True, processes="auto",
    )  # fmt: skip


def options(**given: Any) -> RayOptions:
    return RayOptions.read({**NO_OPTIONS, **given})


EIGHT_GPUS = [Resources(cpus=64, gpus=8)]
MIXED = [Resources(cpus=0, gpus=0), Resources(cpus=32, gpus=0), Resources(cpus=16, gpus=0)]


@pytest.mark.parametrize(
    ("machines", "device", "threads", "given", "expected"),
    [
        (EIGHT_GPUS, "auto", None, {}, Resources(8, 1)),
        (EIGHT_GPUS, "auto", None, {"gpus_per_run": 0.25}, Resources(2, 0.25)),
        (EIGHT_GPUS, "auto", 4, {}, Resources(4, 1)),
        (EIGHT_GPUS, "auto", 4, {"cpus_per_run": 0.5}, Resources(0.5, 1)),
        (EIGHT_GPUS, "cpu", None, {}, Resources(64, 0)),
        (EIGHT_GPUS, "auto", None, {"gpus_per_run": 0}, Resources(64, 0)),
        (MIXED, "auto", None, {}, Resources(16, 0)),
        (MIXED, "cuda", 1, {}, Resources(1, 1)),
    ],
)
def test_what_a_run_gets(
    machines: list[Resources], device: str, threads: int | None, given: dict[str, Any],
    expected: Resources, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(RayOptions, "nodes", lambda _: machines)
    assert options(**given).resources(hardware(device, threads)) == expected


def test_how_many_runs_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RayOptions, "nodes", lambda _: EIGHT_GPUS)
    assert options().at_once(hardware()) == 8
    assert options(gpus_per_run=0.25).at_once(hardware()) == 32
    assert options().at_once(hardware("cpu", 6)) == 10
    monkeypatch.setattr(RayOptions, "nodes", lambda _: MIXED)
    assert options().at_once(hardware(threads=12)) == 2 + 1
    assert options().at_once(hardware("cuda", 1)) is None


def test_a_gpu_of_ones_own_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RayOptions, "nodes", lambda _: EIGHT_GPUS)
    with pytest.raises(UserError, match="cuda:1: which GPU a run gets is Ray's choice"):
        options().resources(hardware("cuda:1"))
    with pytest.raises(UserError, match="gives hardware=cuda no GPU"):
        options(gpus_per_run=0).resources(hardware("cuda"))


@pytest.mark.parametrize(
    ("key", "value"), [("gpus_per_run", -1), ("cpus_per_run", 0), ("retries", -1), ("retries", "x")]
)
def test_a_wrong_option_is_named(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^hydra\.launcher\.{key}: must be"):
        options(**{key: value})


def test_no_cluster_at_the_address_is_one_line(start: Start, tmp_path: Path) -> None:
    command = start("-m", *SMALL, "hydra/launcher=ray", "hydra.launcher.address=127.0.0.1:1")
    assert command.ends() == 2
    assert command.stderr == (
        "opt-run: no Ray cluster at hydra.launcher.address=127.0.0.1:1: "
        "[Errno 111] Connection refused\n"
    )


def test_a_signal_saves_what_runs(start: Start, tmp_path: Path) -> None:
    command = start(
        "-m", *SMALL, "hydra/launcher=ray", "hydra.launcher.init={num_cpus: 2}",
        "method=standard,cayley,gs", "budget.steps=100000", "evaluate.every=100000",
        "checkpoint.every_steps=50",
    )  # fmt: skip
    command.until("outputs/default/**/checkpoint.pt", 2)
    command.process.send_signal(signal.SIGTERM)
    assert command.ends() == 143
    found = results(tmp_path)
    assert found.keys() == {"standard", "cayley"}
    assert {result["status"] for result in found.values()} == {"interrupted"}
    assert "1 of 3 runs have not begun" in command.stdout
    assert command.stderr == "opt-run: interrupted; the same command resumes\n"
