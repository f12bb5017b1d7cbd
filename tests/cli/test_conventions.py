"""Options and plugins of Hydra's work as its users know them, or are refused in one line."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.experimental.callback import Callback

from hydra_plugins.opt_runner.sweepers import _refuse_for_workers
from opt_runner.cli.run import _options_first
from opt_runner.config.compose import conf_dir
from opt_runner.errors import UserError
from tests.cli.conftest import TINY, Run


@dataclass
class Foreign:
    """As hydra-optuna-sweeper and hydra-ray-launcher store theirs."""

    _target_: str = "theirs"
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}])


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> ConfigStore:
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", copy.deepcopy(store.repo))
    for group, name in (("hydra/sweeper", "optuna"), ("hydra/launcher", "ray")):
        store.store(group=group, name=name, node=Foreign)
    return store


def test_other_plugins_of_these_names_do_not_take_the_place_of_ours(foreign: ConfigStore) -> None:
    with hydra.initialize_config_dir(str(conf_dir().parent), version_base="1.3"):
        assert "optuna.yaml" in foreign.repo["hydra"]["sweeper"]  # a command of another package
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        words = ["hydra/sweeper=optuna", "hydra/launcher=ray"]
        cfg = hydra.compose("config", words, return_hydra_config=True)
    assert cfg.hydra.sweeper.trials == 20
    assert cfg.hydra.launcher._target_ == "hydra_plugins.opt_runner.launchers.RayLauncher"


class OfSweeps(Callback):
    pass


class OfJobs(Callback):
    def on_job_end(self, **arguments: Any) -> None: ...


@pytest.mark.parametrize(
    ("words", "callback", "says"),
    [
        ([], OfSweeps, None),
        (["output_dir=elsewhere"], OfSweeps, None),
        (["hydra.job.chdir=true"], OfSweeps, "hydra.job.chdir has no effect on runs of"),
        (["hydra.verbose=true"], OfSweeps, "hydra.verbose has no effect on runs of"),
        (["hydra.sweep.dir=here"], OfSweeps, "hydra.sweep.dir has no effect on runs of"),
        ([], OfJobs, "hydra.callbacks: OfJobs.on_job_end is not called by hydra/launcher=pool"),
    ],
)
def test_what_workers_without_hydra_do_not_obey_is_refused(
    words: list[str], callback: type[Callback], says: str | None
) -> None:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("config", words, return_hydra_config=True)
    context: Any = SimpleNamespace(callbacks=SimpleNamespace(callbacks=[callback()]))
    if says is None:
        _refuse_for_workers(cfg, context)
        return
    with pytest.raises(UserError, match=f"^{says}"):
        _refuse_for_workers(cfg, context)


def test_a_run_alone_calls_callbacks_with_its_objective_and_has_debug_messages(
    opt_run: Run, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        """
import logging
from hydra.experimental.callback import Callback


class Mine(Callback):
    def on_job_start(self, **arguments):
        print("starts")

    def on_job_end(self, job_return, **arguments):
        print("objective", job_return.return_value)


class Tracker:
    def log(self, row):
        logging.getLogger("opt_runner").debug("step %d", row["step"])

    def finish(self, result):
        print("validation", result.validation_error)
"""
    )
    done = opt_run(
        *TINY, "dataset.validation=0.1", "tracking=none", "+tracking.mine._target_=mine.Tracker",
        "+hydra.callbacks.mine._target_=mine.Mine", "hydra.verbose=true", PYTHONPATH=".",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = dict(line.split() for line in done.stdout.splitlines() if line.count(" ") == 1)
    assert "starts" in done.stdout
    assert words["objective"] == words["validation"] != "None"
    (log,) = tmp_path.glob("outputs/default/*/*/*/*/run.log")
    assert "DEBUG opt_runner: step 12" in log.read_text()


def test_options_stand_anywhere() -> None:
    words = ["method=gs", "-m", "--config-dir", "my=conf", "seed=0,1", "--cfg", "job", "--info"]
    options = ["-m", "--config-dir", "my=conf", "--cfg", "job", "--info"]
    assert _options_first(words) == [*options, "method=gs", "seed=0,1"]
    assert _options_first(["seed=1", "--config-dir"]) == ["--config-dir", "seed=1"]
