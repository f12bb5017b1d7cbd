"""What becomes of jobs, as opt-run sees it, without Slurm: a queue and an sbatch that act."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml

from opt_runner.config.compose import compose, conf_dir
from opt_runner.console.screen import Screen
from opt_runner.dispatch.loop import Task, dispatch
from opt_runner.dispatch.slurm import jobs, queue, submission
from opt_runner.dispatch.slurm.options import SlurmOptions
from opt_runner.dispatch.slurm.submission import Refused, Submitted
from opt_runner.errors import UserError
from opt_runner.files import locked
from opt_runner.records.result import Result
from opt_runner.run.run import Run, identify
from opt_runner.sweep.sweep import LeftRunning, Listed, Sweep
from tests.dispatch.conftest import SMALL


@dataclass
class ActingSlurm:
    """ends: how the jobs of a seed's run end, one after the other: a state of Slurm's; without
    any it trains. refuses: whether it takes an array, one after the other; then it takes all."""

    ends: dict[int, list[str]] = field(default_factory=dict)
    refuses: list[bool] = field(default_factory=list)
    known: dict[str, queue.Job] = field(default_factory=dict)
    submitted: list[list[int]] = field(default_factory=list)  # seeds, by array
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def queue(self) -> dict[str, queue.Job]:
        """A job that has left its result is there for one more look."""
        found = dict(self.known)
        for job in found.values():
            if job.state == "COMPLETING":
                self.known[job.id] = replace(job, state="COMPLETED")
        return found

    def submit(self, tasks: Sequence[Task], options: SlurmOptions, sweep: Sweep) -> list[Submitted]:
        if self.refuses and self.refuses.pop(0):
            raise Refused("AssocMaxSubmitJobLimit")
        self.submitted.append([task.run.config.seed for task in tasks])
        folder = sweep.folder / f"slurm-{next(self.numbers)}"
        folder.mkdir(parents=True)
        return [self._begin(task, folder) for task in tasks]

    def _begin(self, task: Task, folder: Path) -> Submitted:
        run = task.run
        job_id = str(next(self.numbers))
        ends = self.ends.get(run.config.seed)
        state = ends.pop(0) if ends else "COMPLETING"
        self.known[job_id] = queue.Job(job_id, "name", state, "None")
        if state == "COMPLETING":
            config = run.config
            names = config.method.name, config.model.name, config.dataset.name
            run.record.directory.mkdir(parents=True, exist_ok=True)
            run.record.write_result(Result(run.signature, *names, config.seed, status="finished"))
        return Submitted(task, job_id, folder / f"{job_id}.out", None)


class Told(Listed):
    """Keeps the seeds of the runs that have ended."""

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__(runs)
        self.ends: list[int] = []

    def ended(self, run: Run) -> None:
        self.ends.append(run.config.seed)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> ActingSlurm:
    acting = ActingSlurm()
    monkeypatch.setattr(queue, "jobs", acting.queue)
    monkeypatch.setattr(jobs, "submit", acting.submit)
    monkeypatch.setattr(jobs, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(jobs, "_ASK_SECONDS", 0.0)
    return acting


Execute = Callable[..., tuple[Sweep, Told]]


@pytest.fixture
def execute(tmp_path: Path) -> Execute:
    def execute(count: int, at_once: int | None = None, **given: Any) -> tuple[Sweep, Told]:
        words = [*SMALL, "budget.steps=1", f"output_dir={tmp_path}"]
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            runs = [identify(compose("config", [*words, f"seed={i}"])) for i in range(count)]
        content = yaml.safe_load((conf_dir() / "hydra/launcher/slurm.yaml").read_text())
        content = {key: value for key, value in content.items() if not key.startswith("_")}
        sweep, source = Sweep(runs, asked=count, here=False), Told(runs)
        options = SlurmOptions.read({**content, **given})
        dispatch(source, jobs.Jobs(options, sweep, Screen("plain")), at_once or count)
        return sweep, source

    return execute


def test_a_killed_job_is_tried_again_and_a_cancelled_one_is_not(
    slurm: ActingSlurm, execute: Execute, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.ends = {0: ["FAILED"], 1: ["CANCELLED"], 2: ["OUT_OF_MEMORY", "NODE_FAIL"]}
    sweep, source = execute(4)
    assert slurm.submitted == [[0, 1, 2, 3], [0, 2]]
    assert sorted(source.ends) == [0, 1, 2, 3]
    results = [run.record.read_result() for run in sweep.runs]
    assert [one and one.status for one in results] == ["finished", None, "failed", "finished"]
    assert results[2] is not None
    assert "ended as NODE_FAIL, in each of 2 tries" in str(results[2].error)
    said = capsys.readouterr().out
    assert "seed 0: its worker (job 1) ended as FAILED: it is retried" in said
    assert "seed 1: job 2 was cancelled" in said
    # What the lost runs wrote stays; the arrays of both hold some of it.
    assert len(list(sweep.folder.glob("slurm-*"))) == 2


def test_submitits_files_of_runs_that_ended_well_are_removed(
    slurm: ActingSlurm, execute: Execute
) -> None:
    slurm.ends = {0: ["FAILED"]}
    sweep, _ = execute(2)
    assert list(sweep.folder.glob("slurm-*")) == []


def test_a_place_that_is_free_gets_the_next_run(slurm: ActingSlurm, execute: Execute) -> None:
    slurm.ends = {0: ["FAILED"]}
    _, source = execute(5, at_once=2)
    assert slurm.submitted[0] == [0, 1]
    assert sorted(seed for array in slurm.submitted for seed in array) == [0, 0, 1, 2, 3, 4]
    assert all(len(array) <= 2 for array in slurm.submitted)
    assert sorted(source.ends) == [0, 1, 2, 3, 4]


def test_what_slurm_does_not_take_yet_waits(slurm: ActingSlurm, execute: Execute) -> None:
    slurm.refuses = [False, True, True, False]
    _, source = execute(5, max_array=2)
    assert slurm.submitted == [[0, 1], [2, 3], [4]]
    assert sorted(source.ends) == [0, 1, 2, 3, 4]


def test_runs_that_slurm_takes_no_more_end_the_sweep(slurm: ActingSlurm, execute: Execute) -> None:
    """Those that have ended have their results: the table is shown, and the exit code is 1."""
    slurm.refuses = [False, *[True] * 10]
    with pytest.raises(Refused, match="Slurm does not accept the jobs: AssocMaxSubmitJobLimit"):
        execute(4, max_array=2)
    assert slurm.submitted == [[0, 1]]


def test_where_slurm_takes_nothing_its_words_are_told(slurm: ActingSlurm, execute: Execute) -> None:
    slurm.refuses = [True]
    with pytest.raises(UserError, match="Slurm does not accept the jobs: AssocMaxSubmitJobLimit"):
        execute(1)


def test_who_does_not_wait_leaves_after_submitting(slurm: ActingSlurm, execute: Execute) -> None:
    slurm.ends = {0: ["PENDING"]}
    with pytest.raises(LeftRunning, match=r"submitted: 0 running, 1 queued.*scancel 1$"):
        execute(1, wait=False)


# A command that is killed between sbatch and job.json.

COMMANDS = {
    "sbatch": """#!/bin/sh
test -f "$(dirname "$1")/submitting" || exit 1
echo "$1" >> {folder}/submitted
echo "Submitted batch job $((70 + $(wc -l < {folder}/submitted)))"
""",
    "squeue": """#!/bin/sh
n=70
for script in $(cat {folder}/submitted); do
    n=$((n + 1))
    sweep=$(basename "$(dirname "$(dirname "$script")")")
    for i in 0 1; do echo "${{n}}_$i|PENDING|None|$sweep|$script"; done
done
echo "99|PENDING|None|name|/somewhere/slurm-else/file.sh"
""",
    "scancel": """#!/bin/sh
echo "$@" >> {folder}/cancelled
""",
    "srun": "#!/bin/sh",
}


@pytest.fixture
def acting_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "submitted").touch()
    for name, text in COMMANDS.items():
        (programs / name).write_text(text.format(folder=programs))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return programs


class Killed(BaseException):
    """In the place of a SIGKILL: nothing more is written, and locks are free."""


@pytest.mark.parametrize("written", [0, 1])
def test_jobs_of_a_killed_submission_are_cancelled_and_submitted_once_more(
    written: int, acting_commands: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """written: how many of the two runs' job.json are on disk at the kill."""
    left = [written]

    def write(path: Path, content: str) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        path.write_text(content)

    with monkeypatch.context() as patched:
        patched.setattr(submission, "write_whole", write)
        with pytest.raises(Killed):
            execute(2, wait=False)
    with pytest.raises(LeftRunning):
        execute(2, wait=False)
    assert (acting_commands / "cancelled").read_text() == "71\n"
    assert len((acting_commands / "submitted").read_text().splitlines()) == 2
    said = capsys.readouterr().out
    assert "the command that submitted 71 was killed in the middle of it" in said
    with pytest.raises(LeftRunning):  # now all is in order
        execute(2, wait=False)
    assert (acting_commands / "cancelled").read_text() == "71\n"
    assert "slurm: 2 jobs submitted before" in capsys.readouterr().out


def test_a_submission_under_way_in_another_command_is_left_alone(
    acting_commands: Path, execute: Execute, tmp_path: Path
) -> None:
    other = tmp_path / ".sweep/another/slurm-else"
    other.mkdir(parents=True)
    with locked(other / "submitting", partial(pytest.fail)), pytest.raises(LeftRunning):
        execute(1, wait=False)
    assert not (acting_commands / "cancelled").exists()
    assert (other / "submitting").exists()
