"""`make evidence` as a person runs it; what needs no processes is in tests/sweep/test_fair.py."""

import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import TINY, Run

EVIDENCE = ["experiment=evidence", "model=mlp", *TINY[1:], "hardware=cpu", "tracking=none"]


@pytest.mark.slow
def test_methods_are_tuned_then_compared_and_reported(opt_run: Run, tmp_path: Path) -> None:
    methods = ["method=standard,cayley", "seed=0,1", "hydra.sweeper.trials=1"]
    command = [*EVIDENCE, "hydra.launcher.slots=1", *methods]
    done = opt_run(*command)
    assert done.returncode == 0, done.stderr
    assert "2 entrants, each with 1 trial of 25% of the budget" in done.stdout
    assert "minus standard" in done.stdout
    records = {path.parent.parent.name for path in tmp_path.glob("outputs/evidence/**/result.json")}
    assert records == {"standard", "cayley"}
    run = next(tmp_path.glob("outputs/evidence/**/cayley/*/command.txt"))
    again = opt_run(*shlex.split(run.read_text())[1:])
    assert again.returncode == 0, again.stderr
    assert "finished before, skipped" in again.stdout


def test_a_key_of_another_sweeper_is_refused(opt_run: Run) -> None:
    done = opt_run(*EVIDENCE, "hydra.sweeper.grids=[{method: gs}]")
    assert done.returncode == 2
    assert "unknown key 'hydra.sweeper.grids'" in done.stderr
