"""Weights & Biases: on by default, offline without a key, one run a run, never in the way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import wandb_file
from tests.cli.conftest import COMMAND, SWEEP, TINY, Finished, Run, results
from tests.slow import slow


@pytest.fixture
def opt_run(tmp_path: Path, environment: dict[str, str]) -> Run:
    """opt-run by a real start: in a forked process wandb at times leaves out a row."""

    def run(
        *arguments: str, cwd: Path = tmp_path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *arguments], cwd=cwd, env={**environment, **variables}, text=True,
            capture_output=True, timeout=200, check=False,
        )  # fmt: skip

    return run


def all_runs(tmp_path: Path) -> list[wandb_file.OfflineRun]:
    return [
        wandb_file.read(p) for p in sorted(tmp_path.glob("outputs/wandb/offline-run-*/*.wandb"))
    ]


def offline_runs(tmp_path: Path) -> list[wandb_file.OfflineRun]:
    """Those of runs."""
    return [run for run in all_runs(tmp_path) if "method" in run.config]


def test_a_sweep_leaves_one_complete_run_a_run(opt_run: Run, tmp_path: Path) -> None:
    done = opt_run(*SWEEP, "method=gs,standard", "note=as of today", *TINY)
    assert done.returncode == 0, done.stderr
    assert "W&B: 3 runs offline, not logged in" in done.stdout
    assert "wandb sync outputs/wandb/offline-run-*" in done.stdout
    runs = {run.config["method"]["name"]: run for run in offline_runs(tmp_path)}
    assert runs.keys() == {"gs", "standard"}
    assert len({run.group for run in runs.values()}) == 1
    assert runs["gs"].group.startswith("default-")
    for result in results(tmp_path):
        run = runs[result["method"]]
        assert run.config["signature"] == result["signature"]
        (record,) = tmp_path.glob(f"outputs/default/*/*/*/*-{result['signature']}")
        assert run.id == (record / "wandb.txt").read_text().strip()
        assert run.exit_code == 0
        assert run.name == f"{result['method']} mlp digits seed 0"
        assert run.notes == "as of today"
        assert run.config["optimizer"]["lr"] == (0.1 if result["method"] == "gs" else 0.01)
        rows = run.history[:13]
        assert [row["_step"] for row in rows] == list(range(13))
        assert rows[-1]["train_loss"] == pytest.approx(result["train_loss"])
        layers = result["end"]["energy_excess"]
        mean = sum(one["1"] for one in layers.values()) / len(layers)
        assert rows[-1]["energy_excess/1/mean"] == pytest.approx(mean)
        assert run.history[-1].keys() >= {
            f"{name}/layers_table/path" for name in ("energy", "energy_excess/1", "largest_cosine")
        }
        assert run.summary["test_error"] == pytest.approx(result["test_error"])
        assert run.summary["status"] == "finished"
    (report,) = (run for run in all_runs(tmp_path) if run.name == "report")
    assert report.group == runs["gs"].group
    (row,) = report.history
    kinds = {
        name: row[f"digits, mlp, 12 steps/{name}/_type"] for name in ("table", "curves", "angles")
    }
    assert kinds == {"table": "table-file", "curves": "image-file", "angles": "image-file"}
    assert row["digits, mlp, 12 steps/table/nrows"] == 2
    assert report.exit_code == 0


@pytest.mark.slow
def test_a_failed_run_is_marked_failed_and_does_not_leak_into_the_next(
    opt_run: Run, tmp_path: Path
) -> None:
    done = opt_run(*SWEEP, "optimizer.lr=1e30,0.1", "method=standard", *TINY)
    assert done.returncode == 1
    runs = {run.config["optimizer"]["lr"]: run for run in offline_runs(tmp_path)}
    assert runs[1e30].exit_code == 1
    assert runs[1e30].summary["status"] == "diverged"
    assert "not finite" in runs[1e30].summary["error"]
    assert runs[0.1].exit_code == 0
    assert len(runs[0.1].history) == 13


@pytest.mark.slow
def test_one_run_prints_its_own_sync_line(opt_run: Run, tmp_path: Path) -> None:
    done = opt_run("method=cayley", *TINY)
    assert "W&B: 1 run offline, not logged in; to upload: wandb sync " in done.stdout
    (folder,) = tmp_path.glob("outputs/wandb/offline-run-*")
    assert folder.name in done.stdout


@pytest.mark.slow
def test_an_unreachable_server_is_said_and_the_run_goes_on_offline(
    opt_run: Run, tmp_path: Path
) -> None:
    done = opt_run(
        "method=cayley", *TINY, WANDB_API_KEY="0" * 40, WANDB_BASE_URL="http://127.0.0.1:9",
        WANDB_INIT_TIMEOUT="2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "W&B cannot be reached" in done.stdout
    (run,) = offline_runs(tmp_path)
    assert run.exit_code == 0
    record = b"".join(path.read_bytes() for path in tmp_path.glob("outputs/default/**/*.*"))
    assert b"0" * 40 not in record


@pytest.mark.slow
def test_tracking_none_does_not_import_wandb(tmp_path: Path, environment: dict[str, str]) -> None:
    probe = (
        "import sys; sys.modules['wandb'] = None; "
        f"sys.argv = ['opt-run', 'tracking=none', *{TINY!r}]; "
        "from opt_runner.cli.run import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, env=environment, check=False, timeout=200
    )
    assert done.returncode == 0
    assert not (tmp_path / "outputs/wandb").exists()


@pytest.mark.slow
def test_a_record_is_sent_later_with_the_environment_s_project_tags_and_folder(
    finished: Finished, environment: dict[str, str], tmp_path: Path
) -> None:
    finished("method=cayley", *TINY, "tracking=none")
    variables = {"WANDB_PROJECT": "ours", "WANDB_TAGS": "a,b", "WANDB_DIR": "elsewhere"}
    done = subprocess.run(  # a real start: wandb reads some variables as it is imported
        [COMMAND.with_name("opt-track"), "outputs"], cwd=tmp_path, check=False,
        env={**environment, **variables, "WANDB_MODE": "dryrun"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cayley mlp digits seed 0: finished, sent" in done.stdout
    (path,) = tmp_path.glob("elsewhere/wandb/offline-run-*/run-*.wandb")
    run = wandb_file.read(path)
    (result,) = results(tmp_path)
    assert (run.project, sorted(run.tags)) == ("ours", ["a", "b"])
    assert run.summary["test_error"] == pytest.approx(result["test_error"])
    assert run.exit_code == 0
    (record,) = tmp_path.glob("outputs/default/*/*/*/*")
    assert run.id == (record / "wandb.txt").read_text().strip()


@pytest.mark.slow
def test_a_finished_run_answers_an_agent_of_wandb_sweep(
    finished: Finished, opt_run: Run, tmp_path: Path
) -> None:
    finished("method=cayley", *TINY, "tracking=none")
    words = [word if word.startswith("-") else f"--{word}" for word in ("method=cayley", *TINY)]
    done = opt_run(*words, WANDB_SWEEP_ID="s1", WANDB_RUN_ID="run1", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert "finished before, skipped" in done.stdout
    (run,) = offline_runs(tmp_path)
    (result,) = results(tmp_path)
    assert (run.id, run.exit_code) == ("run1", 0)
    assert run.summary["test_error"] == pytest.approx(result["test_error"])


@pytest.mark.parametrize(
    "where", ["none", *slow("host", "settings", "environment", "netrc", "token")]
)
def test_a_login_is_what_wandb_takes_for_one(tmp_path: Path, where: str) -> None:
    home, key = tmp_path / "home", "a" * 40
    variables = {"environment": {"WANDB_API_KEY": key}, "host": {"WANDB_BASE_URL": "https://h.org"}}
    (home / ".config/wandb").mkdir(parents=True)
    if where in ("netrc", "host"):
        host = "h.org" if where == "host" else "api.wandb.ai"
        (home / ".netrc").write_text(f"machine {host}\n  login user\n  password {key}\n")
        (home / ".netrc").chmod(0o600)
    if where == "settings":
        (home / ".config/wandb/settings").write_text(f"[default]\napi_key = {key}\n")
    (tmp_path / "token").write_text("token")
    variables["token"] = {"WANDB_IDENTITY_TOKEN_FILE": str(tmp_path / "token")}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB") and k != "NETRC"}
    probe = "from opt_runner.tracking.wandb import _logged_in; print(_logged_in())"
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, text=True, capture_output=True, check=True,
        env={**kept, "HOME": str(home), **variables.get(where, {})},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{where != 'none'}\n", "")
