"""What other people's launchers throw: a line and a log, the table, the exit code."""

import pickle
import signal
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins.opt_runner._sweeper import record_failure
from opt_runner.config.compose import compose, conf_dir
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.run.interrupt import Interrupted
from opt_runner.run.run import identify
from opt_runner.sweep.conduct import conduct
from opt_runner.sweep.sweep import Sweep
from tests.dispatch.conftest import SMALL


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setenv("OPT_RUNNER_SWEEP", "")  # which a sweep sets for its launcher's processes
    words = [*SMALL, "budget.steps=1", f"output_dir={tmp_path}"]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        runs = [identify(compose("config", [*words, f"seed={seed}"])) for seed in range(3)]
    return Sweep(runs, asked=3, here=True)


def conducted(sweep: Sweep, error: BaseException) -> int:
    def launch(runs: Any) -> None:
        raise error

    return conduct(sweep, launch, Screen("plain"))


def as_cause() -> Exception:
    error = RuntimeError("a task failed")
    error.__cause__ = Interrupted(signal.SIGTERM)
    return error


def while_handling() -> Exception:
    error = RuntimeError("a task failed")
    error.__context__ = Interrupted(signal.SIGTERM)
    return error


# As submitit and hydra-ray-launcher hand on what a worker raised.
AS_TEXT = RuntimeError(
    "Job failed during processing with trace:\n"
    "Traceback (most recent call last):\n"
    '  File "loop.py", line 107, in train\n'
    "opt_runner.run.interrupt.Interrupted: SIGTERM\n"
)


@pytest.mark.parametrize(
    "error",
    [
        Interrupted(signal.SIGTERM),
        pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM))),
        as_cause(),
        while_handling(),
        AS_TEXT,
    ],
    ids=["raised", "pickled", "cause", "context", "text"],
)
def test_an_interruption_is_one_however_it_is_wrapped(
    error: BaseException, sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conducted(sweep, error) == 143
    told = capsys.readouterr()
    assert "3 of 3 runs have not begun" in told.out
    assert told.err == "opt-run: interrupted; the same command goes on from here\n"


def test_an_interrupt_of_the_terminal_is_130(sweep: Sweep) -> None:
    assert conducted(sweep, KeyboardInterrupt()) == 130


def test_any_other_failure_is_a_line_and_its_traceback_a_log(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conducted(sweep, RuntimeError("many\nlines " * 100)) == 1
    told = capsys.readouterr()
    (line,) = [line for line in told.out.splitlines() if "RuntimeError" in line]
    assert line.startswith("the launcher failed: RuntimeError: many lines many")
    assert len(line) < 400
    assert "3 of 3 runs have not begun" in told.out
    assert "Traceback" not in told.out + told.err
    log = sweep.folder / "launcher.log"
    assert f"its traceback: {log}" in told.out
    assert log.read_text().startswith("Traceback")


def test_a_users_mistake_that_a_launcher_finds_is_no_failure_of_the_launcher(sweep: Sweep) -> None:
    with pytest.raises(UserError, match="no room"):
        conducted(sweep, UserError("no room"))


def test_runs_of_other_processes_are_counted(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    """As submitit's, which go on when it gives up."""
    record = sweep.runs[0].record
    record.directory.mkdir(parents=True)
    record.config.write_text(yaml.safe_dump(sweep.runs[0].config.content))
    with record.held(lambda holder: None):
        assert conducted(sweep, RuntimeError("gives up")) == 1
    told = capsys.readouterr().out
    assert "2 of 3 runs have not begun" in told
    assert "1 of 3 runs are still under way, in other processes" in told


def test_a_job_that_failed_outside_of_its_run_is_recorded(sweep: Sweep) -> None:
    job = JobReturn(status=JobStatus.FAILED)
    job.return_value = ModuleNotFoundError("No module named 'mine'")
    record_failure(sweep.runs[0], job, Screen("none"))
    result = sweep.runs[0].record.read_result()
    assert result is not None
    assert (result.status, result.error) == (
        "failed", "ModuleNotFoundError: No module named 'mine'",
    )  # fmt: skip
