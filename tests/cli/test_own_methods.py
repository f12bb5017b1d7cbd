"""Methods outside the package: tests/methods/own is a user's folder, of modules and YAML files."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import commands

OWN = Path(__file__).parents[1] / "methods" / "own"
LABELS = {
    "projected_energy": ("Projected energy", "#AA3377"),
    "two_sided": ("Two-sided", "#228833"),
    "block_diagonal": ("Block-diagonal", "#66CCEE"),
}
STEPS, DIES_AT, SAVED_AT = 24, 14, 12
SMALL = [
    "--config-dir", str(OWN / "conf"), "model=mlp", "model._target_=mortal.mlp",
    "model.widths=[32,32]", "tracking=none", "hardware.threads=1", f"budget.steps={STEPS}",
    "log.every=1", "checkpoint.every_steps=4", "augment.enabled=false",
]  # fmt: skip
SWEEP = ["-m", *SMALL, f"method={','.join(LABELS)}", "hydra.launcher.slots=1"]

# A network that ends its process in the forward pass of a step, counted in each run of a process.
MORTAL = """
import os
import signal

from opt_runner.networks import MLP


def mlp(in_channels: int, image_size: tuple[int, int], num_classes: int,
        widths: tuple[int, ...], bn_momentum: float, bn_eps: float) -> MLP:
    network = MLP(in_channels, image_size, num_classes, widths, bn_momentum, bn_eps)
    left = [int(os.environ.get("DIES_AT", "0"))]

    def count(module, inputs):
        left[0] -= module.training
        if module.training and left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    network.register_forward_pre_hook(count)
    return network
"""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "mortal.py").write_text(MORTAL)
    return folder


@pytest.fixture(scope="module")
def command(folder: Path) -> Command:
    """opt-run or opt-report, in a folder where the modules of the methods are found."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "OPT_", "HYDRA"))}
    paths = [str(OWN), str(folder), os.environ.get("PYTHONPATH", "")]
    variables = {**kept, "COLUMNS": "160", "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def run(name: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        path = Path(sys.executable).with_name(name)
        return commands.run([path, *arguments], cwd=folder, env={**variables, **more})

    return run


@pytest.fixture(scope="module")
def uncut(command: Command, folder: Path) -> dict[str, Path]:
    """The record of each method in an undisturbed sweep."""
    done = command("opt-run", *SWEEP, "experiment_name=uncut")
    assert done.returncode == 0, done.stdout + done.stderr
    return records(folder, "uncut")


def records(folder: Path, experiment: str) -> dict[str, Path]:
    found = folder.glob(f"outputs/{experiment}/**/result.json")
    return {json.loads(path.read_text())["method"]: path.parent for path in found}


def rows(record: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (record / "metrics.jsonl").read_text().splitlines()]
    for row in found:
        row.pop("seconds", None), row.pop("samples_per_second", None)
    return found


def test_each_trains(uncut: dict[str, Path]) -> None:
    assert uncut.keys() == LABELS.keys()
    for method, record in uncut.items():
        losses = [row["train_loss"] for row in rows(record) if "train_loss" in row]
        assert len(losses) == STEPS
        assert losses[-1] < 0.8 * losses[0], method
        result = json.loads((record / "result.json").read_text())
        assert result["status"] == "finished"
        assert (result["orthogonality_error"] is None) == (method == "projected_energy")
    penalties = [row["penalty"] for row in rows(uncut["projected_energy"]) if "penalty" in row]
    assert min(penalties) > 0


@pytest.mark.slow
def test_killed_in_the_middle_of_each_it_ends_as_if_undisturbed(
    command: Command, folder: Path, uncut: dict[str, Path]
) -> None:
    # In the command's own process: the default launcher would start a killed worker again.
    cut_sweep = [*SWEEP[:-1], "hydra/launcher=basic", "experiment_name=cut"]
    kills = 0
    while True:
        done = command("opt-run", *cut_sweep, DIES_AT=str(DIES_AT))
        assert (f"resumes from step {SAVED_AT} of {STEPS}" in done.stdout) == (kills > 0)
        if done.returncode != -signal.SIGKILL:
            break
        kills += 1
    assert done.returncode == 0, done.stdout + done.stderr
    assert kills == len(LABELS), "a run that goes on is done before the network dies again"
    cut = records(folder, "cut")
    assert cut.keys() == uncut.keys()
    for method, record in cut.items():
        assert rows(record) == rows(uncut[method]), method
        found, expected = (
            load_file(one / "weights.safetensors") for one in (record, uncut[method])
        )
        torch.testing.assert_close(
            found, expected, rtol=0, atol=0, msg=lambda text, method=method: f"{method}: {text}"
        )


def test_each_is_reported_by_its_name_with_its_label_and_colour(
    command: Command, folder: Path, uncut: dict[str, Path]
) -> None:
    for method, record in uncut.items():
        result = json.loads((record / "result.json").read_text())
        assert (result["label"], result["colour"]) == LABELS[method]
    done = command("opt-report", "outputs/uncut", "--out", "report")
    assert done.returncode == 0, done.stderr
    (table,) = json.loads((folder / "report" / "report.json").read_text())["tables"]
    labels = {row["method"]: row["row"] for row in table["rows"]}
    assert labels == {method: label for method, (label, _) in LABELS.items()}
    curves = (folder / "report" / "curves.svg").read_text().lower()
    for label, colour in LABELS.values():
        assert colour.lower() in curves
        assert label in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["method=two_sided", "method.spread=-1"],
         "method.spread: must be greater than or equal to 0, got -1"),
        (["method=projected_energy", "method.dimension=3"],
         "unknown key 'method.dimension'; did you mean 'method.dimensions'? "
         "(opt-run --cfg job shows all keys)"),
        (["method=block_diagonal", "method.block=5"],
         "method.block=5 does not divide d = 64 of features.1"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_option_is_one_line(
    command: Command, folder: Path, arguments: list[str], says: str
) -> None:
    done = command("opt-run", *SMALL, *arguments, "experiment_name=mistakes")
    assert done.returncode == 2
    assert done.stderr == f"opt-run: {says}\n"
    assert not (folder / "outputs" / "mistakes").exists()
