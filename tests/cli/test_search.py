"""hydra/sweeper=optuna as a person runs it; what does not need processes is in tests/sweep/."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests import commands
from tests.cli.conftest import COMMAND, TINY, Run, results

SEARCH = ["-m", "hydra/sweeper=optuna", *TINY, "hardware=cpu", "tracking=none", "method=gs",
          "optimizer.lr=tag(log,interval(0.01,0.3))"]  # fmt: skip
SPLIT = "dataset.validation=0.2"


def trials(tmp_path: Path) -> list[dict[str, Any]]:
    paths = list(tmp_path.glob("outputs/default/search-*/search.json"))
    assert len(paths) <= 1
    return json.loads(paths[0].read_text())["trials"] if paths else []


@pytest.mark.slow
def test_killed_and_begun_again_a_search_loses_and_repeats_no_trial(
    opt_run: Run, tmp_path: Path, environment: dict[str, str]
) -> None:
    # With two slots, two trials are under way when the search is killed.
    command = [*SEARCH, SPLIT, "hydra.sweeper.trials=4", "hydra.launcher.slots=2",
               "checkpoint.every_steps=2"]  # fmt: skip
    process = commands.start(
        [COMMAND, *command], cwd=tmp_path, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not trials(tmp_path):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {trial["number"]: trial for trial in trials(tmp_path)}

    done = opt_run(*command)
    assert done.returncode == 0, done.stderr
    assert "to resume" in done.stdout
    # One that was being drawn when the search was killed is drawn anew, under another number.
    found = [trial for trial in trials(tmp_path) if trial["runs"]]
    assert [trial["status"] for trial in found] == ["finished"] * 4
    before = {number: trial for number, trial in before.items() if trial["runs"]}
    found_by_number = {trial["number"]: trial for trial in found}
    for number, trial in before.items():
        assert trial["parameters"] == found_by_number[number]["parameters"]
    assert len({trial["parameters"]["optimizer.lr"] for trial in found}) == 4
    assert len(results(tmp_path)) == 4, "one run a trial"
    assert {result["signature"] for result in results(tmp_path)} == {
        run for trial in found for run in trial["runs"]
    }
    best = min(found, key=lambda trial: trial["value"])
    (result,) = (one for one in results(tmp_path) if one["signature"] == best["runs"][0])
    assert best["value"] == result["validation_error"]
    assert f"best: trial {best['number']}: optimizer.lr=" in done.stdout
    assert f"{result['test_error']:.2f}" in done.stdout
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/**/result.json")}
    more = opt_run(*command[:-3], "hydra.sweeper.trials=5")
    assert more.returncode == 0, more.stderr
    assert "5 trials: 4 done, 0 to resume, 1 to draw" in more.stdout
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_other_launchers_are_refused(opt_run: Run, tmp_path: Path) -> None:
    done = opt_run(*SEARCH, SPLIT, "hydra/launcher=basic")
    assert done.returncode == 2
    assert done.stderr == (
        "opt-run: a search needs hydra/launcher=pool, slurm or ray: others execute only grids\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_test_error_is_never_minimised(opt_run: Run, tmp_path: Path) -> None:
    done = opt_run(*SEARCH)
    assert done.returncode == 2
    assert done.stderr == (
        "opt-run: a search minimises the validation error, never the test error: hold training "
        "images back for it, such as dataset.validation=0.1\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_mistakes_in_its_own_keys_are_one_line_each(opt_run: Run) -> None:
    done = opt_run(*SEARCH, SPLIT, "hydra.sweeper.trials=0", "hydra.sweeper.pruning=some")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "opt-run: hydra.sweeper.trials: must be greater than 0, got 0",
        "opt-run: hydra.sweeper.pruning: must be 'none', 'median' or 'hyperband', got 'some'",
    ]
