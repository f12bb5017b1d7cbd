"""The same sweep gives the same results one run after the other and under every launcher, also
where one of its workers is killed."""

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.dispatch.conftest import SMALL, Start, outcomes, trainings

pytestmark = pytest.mark.slow

METHODS, SEEDS = ["standard", "cayley", "or", "gs"], range(4)
SWEEP = [
    "-m", f"method={','.join(METHODS)}", *SMALL, "budget.steps=60", "evaluate.every=30",
    "checkpoint.every_steps=10", "progress=plain",
]  # fmt: skip
ALL_SEEDS = f"seed={','.join(map(str, SEEDS))}"
LAUNCHERS = {
    "pool": ["hydra.launcher.slots=2"],
    "ray": ["hydra/launcher=ray", "hydra.launcher.init={num_cpus: 2}"],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
}

Outcomes = dict[tuple[str, int], tuple[Any, ...]]
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray"
)


@pytest.fixture(scope="session")
def one_by_one(shared: Path, start_in: Start) -> Outcomes:
    """The sweep in one process, once for all tests."""
    folder = shared / "one-by-one"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            command = start_in(folder, *SWEEP, ALL_SEEDS, "hydra/launcher=basic")
            assert command.ends() == 0, command.stdout + command.stderr
    found = outcomes(folder)
    assert found.keys() == {(method, seed) for method in METHODS for seed in SEEDS}
    assert {result["status"] for result, _, _ in found.values()} == {"finished"}
    return found


@pytest.mark.parametrize("launcher", ["pool", pytest.param("ray", marks=needs_ray)])
def test_a_killed_worker_costs_one_retry(
    launcher: str, one_by_one: Outcomes, start: Start, tmp_path: Path
) -> None:
    command = start(*SWEEP, ALL_SEEDS, *LAUNCHERS[launcher])
    killed = command.kill_a_worker()
    assert command.ends() == 0, command.stdout + command.stderr
    assert outcomes(tmp_path) == one_by_one
    begun = Counter("resumes" if "resumes" in line else "trains" for line in trainings(tmp_path))
    assert begun == {"trains": len(one_by_one) + 1, "resumes": 1}
    assert "resumes from step" in (killed / "run.log").read_text()
    assert ": it is retried" in command.stdout
    assert command.stderr == ""


# submitit starts all runs at once, each in a process that imports torch: four of them will do.
@pytest.mark.parametrize(
    ("launcher", "seeds"), [("joblib", ALL_SEEDS), ("submitit_local", "seed=0")]
)
def test_a_foreign_launcher_that_fails_ends_in_the_table_and_the_same_command_goes_on(
    launcher: str, seeds: str, one_by_one: Outcomes, start: Start, tmp_path: Path
) -> None:
    arguments = [*SWEEP, seeds, *LAUNCHERS[launcher]]
    command = start(*arguments)
    killed = command.kill_a_worker()
    assert command.ends() == 1, command.stdout + command.stderr
    assert "the launcher failed: " in command.stdout
    assert "digits, mlp" in command.stdout
    assert "Traceback" not in command.stdout + command.stderr
    (log,) = tmp_path.glob("outputs/.sweep/*/launcher.log")
    assert "Traceback" in log.read_text()
    if launcher == "joblib":  # which ends all its workers with the one
        assert "runs have not begun" in command.stdout
    again = start(*arguments)
    assert again.ends() == 0, again.stdout + again.stderr
    expected = {key: one for key, one in one_by_one.items() if f"seed={key[1]}" == seeds}
    assert outcomes(tmp_path) == (expected or one_by_one)
    assert "resumes from step" in (killed / "run.log").read_text()
