"""docs/extending.md and docs/tutorial.md, followed to the letter: see tests/documents.py."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from opt_runner.cli import mistakes
from tests import documents
from tests.cli.conftest import COMMAND, Run, outcome, results
from tests.documents import Command, File, Shell

NAMES = ["extending.md", "tutorial.md"]
# What the command finds only when it looks at the data.
OF_THE_DATA = "does not exist"

# The augmentation of the document, which ends its process in a batch, counted from 1.
DYING = """
import os
import signal

import my_augmentation


class Cutout(my_augmentation.Cutout):
    applied = 0

    def apply(self, images, top, left):
        self.applied += 1
        if self.applied == int(os.environ.get("DIES_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().apply(images, top, left)
"""


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The documents' modules are found as with `export PYTHONPATH=.`, and not by later tests."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    GlobalHydra.instance().clear()
    yield
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def refusal(command: Command) -> str | None:
    """What the document shows the command to be refused with."""
    first = command.shown[0] if command.shown else ""
    return first.removeprefix("opt-run: ") if first.startswith("opt-run: ") else None


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_keys_and_values_that_there_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    composed = 0
    for step in documents.read(name):
        if isinstance(step, File):
            documents.write(step, tmp_path)
        elif (refused := refusal(step)) is None or OF_THE_DATA in refused:
            documents.check_composes(step)
            composed += step.words[0] == "opt-run"
        else:
            monkeypatch.setattr(sys, "argv", step.words)
            with pytest.raises(SystemExit), mistakes.exit_on_error(hydra_runs=True):
                documents.check_composes(step)
            assert capsys.readouterr().err == f"opt-run: {refused}\n"
    assert composed > 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", NAMES)
def test_every_command_does_what_is_shown(
    name: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    environment["PATH"] = f"{COMMAND.parent}{os.pathsep}{environment['PATH']}"
    run = Shell(tmp_path, environment)
    for step in documents.read(name):
        if isinstance(step, File):
            documents.write(step, tmp_path)
            continue
        done = run(step.line)
        assert done.returncode == (2 if refusal(step) else 0), f"{step.line}\n{done.stdout}"
        documents.check_shown(step, done.stdout)
    assert all(result["status"] == "finished" for result in results(tmp_path))


TOGETHER = [
    "--config-dir", "my_conf", "model=two_convolutions", "dataset=stripes", "augment/then=cutout",
    "hardware.threads=1", "tracking=none", "log.every=1",
]  # fmt: skip


@pytest.fixture
def extended(tmp_path: Path, opt_run: Run) -> Run:
    """opt-run in a folder with all files of docs/extending.md."""
    for step in documents.read("extending.md"):
        if isinstance(step, File):
            documents.write(step, tmp_path)
    exec((tmp_path / "make_stripes.py").read_text().replace("stripes.npz", f"{tmp_path}/stripes"))
    path = os.pathsep.join(filter(None, [".", os.environ.get("PYTHONPATH", "")]))

    def run(*arguments: str, **variables: str):
        return opt_run(*arguments, PYTHONPATH=path, **variables)

    return run


def test_own_methods_on_an_own_network_with_own_data_and_augmentation(
    extended: Run, tmp_path: Path
) -> None:
    methods = "exponential,low_rank,decorrelated,low_rank_update"
    done = extended("-m", *TOGETHER, "budget.steps=40", f"method={methods}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {result["method"]: result for result in results(tmp_path)}
    assert found.keys() == set(methods.split(","))
    for name, result in found.items():
        assert (result["status"], result["model"]) == ("finished", "two_convolutions")
        assert result["train_loss"] < 0.65, "at chance it is log 2 = 0.69"
        rotates = name in ("exponential", "low_rank")
        assert (result["orthogonality_error"] is not None) == rotates
        assert (result["orthogonality_error"] or 0) < 1e-4


@pytest.mark.slow
def test_cut_off_it_ends_as_if_undisturbed(extended: Run, tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    arguments = [
        *TOGETHER, "budget.steps=24", "method=low_rank", "augment.then._target_=dying.Cutout",
        "checkpoint.every_steps=4",
    ]  # fmt: skip
    assert extended(*arguments, "experiment_name=uncut").returncode == 0
    cut = extended(*arguments, "experiment_name=cut", DIES_AT="15")
    assert cut.returncode == -signal.SIGKILL
    again = extended(*arguments, "experiment_name=cut")
    assert "goes on from step 12 of 24" in again.stdout
    rows, state = outcome(tmp_path, "cut")
    expected_rows, expected_state = outcome(tmp_path, "uncut")
    assert rows == expected_rows
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(state[name], expected_state[name]) for name in state)
