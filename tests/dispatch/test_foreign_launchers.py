"""What other people's launchers throw: a line and a log, the table, the exit code."""

import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins.opt_runner.launchers import PoolLauncher
from hydra_plugins.opt_runner.sweepers import GridSweeper
from opt_runner.config.compose import compose, conf_dir
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError, in_words
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


def test_an_interruption_of_a_run_in_this_process(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conducted(sweep, Interrupted(signal.SIGTERM)) == 143
    told = capsys.readouterr()
    assert "3 of 3 runs have not begun" in told.out
    assert told.err == "opt-run: interrupted; the same command resumes\n"


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


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'mine'"), UserError("the data are gone")]
)
def test_a_job_that_failed_outside_of_its_run_is_a_failure_of_the_launcher(
    error: Exception, sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of a rerun, whose old result is still there."""
    sweeper = with_launcher_of_others()
    jobs = [JobReturn(status=JobStatus.COMPLETED), JobReturn(status=JobStatus.FAILED)]
    jobs[0].return_value, jobs[1].return_value = None, error
    sweeper.launcher.launch = lambda overrides, first: jobs
    sweeper._overrides = {run.signature: [] for run in sweep.runs}
    screen = Screen("plain")
    assert conduct(sweep, partial(sweeper.launch, sweep, screen), screen) == 1
    said = f"RuntimeError: {error}" if isinstance(error, UserError) else in_words(error)
    assert f"the launcher failed: {said}" in capsys.readouterr().out


def with_launcher_of_others() -> GridSweeper:
    sweeper = GridSweeper()
    sweeper.launcher, sweeper.options = SimpleNamespace(), None
    return sweeper


def test_a_search_needs_a_launcher_that_takes_runs_one_by_one(sweep: Sweep) -> None:
    sweeper = with_launcher_of_others()
    with pytest.raises(UserError, match=r"a search needs hydra/launcher=pool, slurm or ray"):
        sweeper.at_once(sweep.runs[0])


def test_a_sweeper_of_others_is_told_what_these_launchers_are_for() -> None:
    with pytest.raises(UserError, match="with another sweeper use hydra/launcher=basic"):
        PoolLauncher().launch([["seed=1"]], 0)
