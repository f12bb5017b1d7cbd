"""Sweeps on a real Slurm: what is killed, pre-empted or out of time loses nothing."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.dispatch import slurm_cluster
from tests.dispatch.slurm_cluster import CORES, CannotBeHad, Cluster

pytestmark = pytest.mark.slow

# A method whose steps take their time, whatever the machine, and none of its cores.
SLOW = """
import os, time
from opt_runner.methods import Cayley, method_options

print("group", os.environ.get("OPT_RUNNER_SWEEP"), flush=True)

@method_options
class Slow(Cayley):
    seconds: float

    def rotate(self, R, W):
        time.sleep(self.seconds / 2)  # for each of two layers
        return super().rotate(R, W)
"""
TINY = [
    "--config-dir", "my_conf", "-m", "model=mlp", "model.widths=[16,16]", "hardware.threads=1",
    "tracking=none", "progress=plain", "method=slow", "checkpoint.every_steps=5",
    "hydra/launcher=slurm",
]  # fmt: skip
HELD = "hydra.launcher.additional_parameters={hold:true}"
LEAVE = "hydra.launcher.wait=false"
LATE = ("experiment_name=late", "budget.steps=450", "method.seconds=0.1", "evaluate.every=450")
# A cluster's limit of submitted jobs: here one that is held.
LIMITED = """#!/bin/sh
squeue --me -h -o %r | grep -q Held && echo AssocMaxSubmitJobLimit >&2 && exit 1
exec {sbatch} "$@"
"""
# Ends the command that submits before it has written down what it submitted.
KILLING = """#!/bin/sh
{sbatch} "$@"
kill -KILL $PPID
"""


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        cluster = Cluster(slurm_cluster.unpacked(), tmp_path_factory.mktemp("slurm"))
        cluster.start()
    except CannotBeHad as error:
        pytest.skip(f"no Slurm to test with: {error}")
    yield cluster
    cluster.stop()


class Folder:
    """A folder with the method `slow`, and opt-run in it as on a login node."""

    def __init__(self, path: Path, slurm: Cluster) -> None:
        self.path = path
        self.slurm = slurm
        self.programs = path / "programs"  # found before the cluster's
        (path / "slow.py").write_text(SLOW)
        (path / "my_conf/method").mkdir(parents=True)
        (path / "my_conf/method/slow.yaml").write_text(
            "name: slow\n_target_: slow.Slow\nseconds: 0.02\n"
        )

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        known = [str(self.path), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "OPT_", "HYDRA"))},
            **self.slurm.environment,
            "PATH": f"{self.programs}:{self.slurm.environment['PATH']}",
            "PYTHONPATH": os.pathsep.join(known),
            "COLUMNS": "160",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "opt_runner", *TINY, *arguments],
            cwd=self.path, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, preexec_fn=_take_sigint,
        )  # fmt: skip

    @contextlib.contextmanager
    def sbatch(self, text: str) -> Iterator[None]:
        """Within the block this script stands in front of the cluster's sbatch."""
        real = self.slurm.environment["PATH"].partition(":")[0]
        self.programs.mkdir()
        script = self.programs / "sbatch"
        script.write_text(text.format(sbatch=f"{real}/sbatch"))
        script.chmod(0o755)
        yield
        shutil.rmtree(self.programs)

    def run(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == code, output
        return output

    def records(self, experiment: str = "default") -> list[Path]:
        return sorted(self.path.glob(f"outputs/{experiment}/*/*/*/seed?-????????????"))

    def job(self, record: Path) -> str:
        return str(json.loads((record / "job.json").read_text())["id"])


def _take_sigint() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it


@pytest.fixture
def folder(slurm: Cluster, tmp_path: Path) -> Folder:
    return Folder(tmp_path, slurm)


@pytest.fixture(scope="module")
def out_of_time(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, str]:
    """A run of 45 s in a job of a minute, of which the signal comes 15 to 45 s before the end:
    submitted before the first test, looked at by the last."""
    folder = Folder(tmp_path_factory.mktemp("time"), slurm)
    job = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=15")
    return folder, folder.run(*LATE, *job, LEAVE)


def until(holds: Callable[[], Any], seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def outcome(record: Path) -> tuple[Any, ...]:
    """What does not depend on when and where a run was trained."""
    result = json.loads((record / "result.json").read_text())
    rows = [json.loads(line) for line in (record / "metrics.jsonl").open()]
    for timed in (result, *rows):
        timed.pop("seconds", None), timed.pop("samples_per_second", None)
    result.pop("metrics_size")
    weights = load_file(record / "weights.safetensors")
    return result, rows, {name: tensor.tolist() for name, tensor in weights.items()}


def table(output: str) -> list[str]:
    """The one at the end of a sweep, without its times."""
    (row,) = [line for line in output.splitlines() if line.startswith("  slow  ")]
    *columns, _seconds, runs = row.split()
    return [*columns, runs]


def test_an_array_with_a_killed_job_gives_what_this_machine_gives(
    folder: Folder, out_of_time: Any
) -> None:
    asked = ("seed=0,1,2", "budget.steps=40", "method.seconds=0.05", "evaluate.every=20")
    process = folder.start(*asked, "hydra.launcher.max_array=2")
    on_this_machine = folder.start(*asked, "experiment_name=here", "hydra/launcher=pool")
    victim = until(lambda: list(folder.path.glob("outputs/default/**/seed1-*/checkpoint.pt")))[
        0
    ].parent
    os.kill(int((victim / "lock").read_text().split()[1]), signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    first = folder.job(folder.records()[0])
    assert f"to cancel: scancel {first.partition('_')[0]} " in output  # two arrays
    assert "slow mlp digits seed 1: its worker (job " in output
    assert ") ended as FAILED: it is retried\n" in output
    assert "resumes from step" in (victim / "run.log").read_text()
    group = "group default-"
    assert all(group in (record / "job.log").read_text() for record in folder.records())
    assert not list(folder.path.glob("outputs/.sweep/default-*/*"))

    here, _ = on_this_machine.communicate(timeout=200)
    assert on_this_machine.returncode == 0, here
    assert table(output) == table(here)
    for there, alone in zip(folder.records(), folder.records("here"), strict=True):
        assert there.name == alone.name  # a run on a cluster has the signature it has here
        assert outcome(there) == outcome(alone)


def test_a_signal_saves_and_pre_emption_requeues(folder: Folder) -> None:
    process = folder.start(
        "budget.steps=300",
        "evaluate.every=100",
        "checkpoint.every_steps=1000",
        "experiment_name=pre",
    )
    rows = until(lambda: list(folder.path.glob("outputs/**/metrics.jsonl")))[0]
    until(lambda: len(rows.read_text().splitlines()) > 3)
    (record,) = folder.records("pre")
    job = folder.job(record)
    # As before a kill of which Slurm has not said that it is a pre-emption.
    folder.slurm("scancel", "--signal=TERM", job)
    until((record / "checkpoint.pt").exists)
    assert folder.slurm.jobs("pre") == {job: "RUNNING"}
    folder.slurm("srun", "-p", "high", "-c", str(CORES), "true")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert folder.job(record) == job
    log = (record / "job.log").read_text()
    assert log.count(f"job {job} on ") == 2
    assert "Caught signal SIGUSR2" in log
    assert "resumes from step" in log
    assert "slow mlp digits seed 0: finished" in output


def test_the_same_command_finds_its_jobs_and_cancels_those_that_left_the_grid(
    folder: Folder,
) -> None:
    asked = (HELD, "budget.steps=5", "experiment_name=held", "hydra.launcher.max_array=1")
    with folder.sbatch(LIMITED):
        first = folder.run("seed=1,0", *asked, LEAVE)
    assert "0 running, 1 queued, 1 not submitted, as Slurm accepts no more now" in first
    (of_1,) = folder.slurm.jobs("held")

    second = folder.run("seed=0,2", *asked, LEAVE)
    assert f"1 job of outputs/held not in this grid ({of_1} seed1-" in second
    assert len(folder.slurm.jobs("held")) == 3

    process = folder.start("seed=0", *asked, "hydra.launcher.cancel_others=true")
    until(lambda: len(folder.slurm.jobs("held")) == 1)
    kept = folder.job(folder.records("held")[0])
    assert list(folder.slurm.jobs("held")) == [kept]

    # Who leaves is told how to cancel; the jobs go on.
    assert process.stdout is not None
    said = list(itertools.takewhile(lambda line: "queued" not in line, process.stdout))
    assert "slurm: 1 job submitted before\n" in said
    process.send_signal(signal.SIGINT)
    words, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the jobs go on: 0 running, 1 queued" in words
    assert f"scancel {kept.partition('_')[0]}\n" in words
    assert list(folder.slurm.jobs("held")) == [kept]


def test_jobs_of_a_command_that_was_killed_as_it_submitted_are_not_left_alone(
    folder: Folder,
) -> None:
    asked = ("seed=0,1", HELD, "budget.steps=5", "experiment_name=orphans", LEAVE)
    with folder.sbatch(KILLING):
        folder.run(*asked, code=-signal.SIGKILL)
    lost = {job_id.partition("_")[0] for job_id in folder.slurm.jobs("orphans")}
    assert len(lost) == 1
    assert not list(folder.path.glob("outputs/**/job.json"))
    output = folder.run(*asked)
    assert f"slurm: the command that submitted {lost.pop()} was killed in the middle" in output
    until(lambda: len(folder.slurm.jobs("orphans")) == 2)
    jobs = {folder.job(record) for record in folder.records("orphans")}
    assert jobs == folder.slurm.jobs("orphans").keys()


def test_a_search_takes_the_next_trial_when_one_ends_and_finds_its_jobs_again(
    folder: Folder,
) -> None:
    search = ["hydra/sweeper=optuna", "optimizer.lr=interval(0.01,0.1)", "seed=0,1",
              "dataset.validation=0.1", "hydra.sweeper.trials=3"]  # fmt: skip
    needed = folder.run(*search, "budget.steps=20", code=2)
    assert "hydra.sweeper.parallel=N must be given" in needed
    search += ["budget.steps=150", "hydra.sweeper.parallel=2"]
    assert f"opt-run: {LEAVE} leaves before the runs have results" in folder.run(
        *search, LEAVE, code=2
    )
    process = folder.start(*search)
    until(lambda: list(folder.slurm.jobs("search").values()) == ["RUNNING"] * 2)
    process.kill()
    process.communicate()
    output = folder.run(*search)
    assert "2 to resume, 1 to draw; up to 2 at once" in output
    assert "slurm: 2 jobs submitted before" in output
    (path,) = folder.path.glob("outputs/default/search-*/search.json")
    trials = json.loads(path.read_text())["trials"]
    assert [trial["status"] for trial in trials] == ["finished"] * 3
    assert len(list(folder.path.glob("outputs/**/result.json"))) == 6


def test_a_job_that_ends_without_a_word_is_tried_once_more_and_a_cancelled_one_is_not(
    folder: Folder,
) -> None:
    began = folder.path / "began"
    (folder.path / "setup.sh").write_text(
        f'[ "$SLURM_ARRAY_TASK_ID" = 1 ] || exit 3\ntouch {began}\nsleep 100\n'
    )
    process = folder.start("hydra.launcher.setup=[. ./setup.sh]", "seed=0,1",
                           "experiment_name=lost", "budget.steps=5")  # fmt: skip
    until(began.exists)  # Slurm may lose what it is told of a job that is just being started
    running = [i for i in folder.slurm.jobs("lost") if i.endswith("_1")]
    folder.slurm("scancel", *running)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    array = running[0].partition("_")[0]
    assert f"seed 1: job {array}_1 was cancelled\n" in output
    assert f"seed 0: its worker (job {array}_0) ended as FAILED: it is retried\n" in output
    assert "seed 0: failed, its worker (job " in output
    assert ") ended as FAILED, in each of 2 tries\n" in output
    assert "1 of 2 runs have not begun" in output


def test_what_slurm_does_not_take_is_one_line(folder: Folder) -> None:
    output = folder.run(
        "hydra.launcher.partition=nowhere", "budget.steps=5", "hardware=cpu", code=2
    )
    assert "opt-run: Slurm does not accept the jobs: sbatch: error: invalid partition" in output
    assert "Traceback" not in output


def test_a_job_out_of_time_is_requeued_and_goes_on(out_of_time: tuple[Folder, str]) -> None:
    folder, words = out_of_time
    assert "submitted: 0 running, 1 queued" in words
    (record,) = folder.records("late")
    job = folder.job(record)
    output = folder.run(*LATE)
    assert "slow mlp digits seed 0: finished" in output
    assert folder.job(record) == job
    log = (record / "job.log").read_text()
    assert "this job is timed-out" in log
    assert "resumes from step" in log
