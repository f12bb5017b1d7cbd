"""A finished run's network, from its record alone."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from opt_runner.errors import UserError
from opt_runner.opt import merge
from opt_runner.run.run import Run
from opt_runner.run.set_up import set_up
from opt_runner.run.step import TrainingStep
from opt_runner.trained import read


def test_it_is_the_merged_network_of_the_last_step(cnn: Run) -> None:
    setup = set_up(cnn.config, cnn.dataset.load())
    step = TrainingStep(setup)
    setup.opt.train()
    while step.done < setup.steps:
        step()
    expected = merge(setup.opt).state_dict()
    trained = read(cnn.record.directory)
    found = trained.network.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert not trained.network.training
    assert trained.interface.shape == (1, 8, 8)
    assert trained.interface.classes == [str(digit) for digit in range(10)]


def test_a_run_can_start_from_it(cnn: Run, tmp_path: Path) -> None:
    config = cnn.config.model_copy(
        update={"model": cnn.config.model.model_copy(update={"weights": cnn.record.weights})}
    )
    opt = set_up(config, cnn.dataset.load()).opt.eval()
    x = torch.randn(2, 1, 8, 8)
    expected = read(cnn.record.directory).network(x)
    assert torch.allclose(opt(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: folder.joinpath("config.yaml").unlink(), "is no record of opt-run"),
        (lambda folder: shutil.rmtree(folder), "is no record of opt-run"),
        (
            lambda folder: folder.joinpath("result.json").unlink(),
            "must have finished, and is not finished",
        ),
        (
            lambda folder: rewrite(folder / "result.json", '"finished"', '"interrupted"'),
            "must have finished, and is interrupted; its command: opt-run",
        ),
        (lambda folder: folder.joinpath("result.json").write_text("{"), "and is damaged"),
        (
            lambda folder: folder.joinpath("weights.safetensors").unlink(),
            "weights.safetensors is missing",
        ),
        (
            lambda folder: folder.joinpath("weights.safetensors").write_bytes(b"no header"),
            "weights.safetensors is damaged",
        ),
        (lambda folder: flip(folder / "weights.safetensors"), "its SHA-256 is not that of result"),
        (lambda folder: pipe(folder / "weights.safetensors"), "is no regular file"),
        (lambda folder: pipe(folder / "config.yaml"), "is no record of opt-run"),
        (lambda folder: pipe(folder / "result.json"), "and is damaged"),
        (
            lambda folder: rewrite(folder / "config.yaml", "fc_width: 8", "fc_width: 9"),
            "does not fit the network",
        ),
        (
            lambda folder: rewrite(folder / "config.yaml", "fc_width: 8", "fc_depth: 8"),
            "config.yaml: unknown key 'model.fc_depth'",
        ),
    ],
)
def test_what_is_no_finished_run_is_one_line(record: Path, tmp_path: Path, spoil, says) -> None:
    folder = tmp_path / record.name
    shutil.copytree(record, folder)
    folder.joinpath("command.txt").write_text("opt-run method=cayley\n")
    spoil(folder)
    with pytest.raises(UserError) as caught:
        read(folder)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [0, -1, 2**21, 0.5, None, True, "x"])
def test_a_size_that_no_network_has_is_one_line(record: Path, tmp_path: Path, value: Any) -> None:
    folder = tmp_path / record.name
    shutil.copytree(record, folder)
    path = folder / "weights.safetensors"
    with safe_open(path, "pt") as file:
        takes = json.loads(file.metadata()["opt_runner"])
    takes["gives"]["num_classes"] = value
    save_file(load_file(path), path, {"opt_runner": json.dumps(takes)})
    result = json.loads((folder / "result.json").read_text())
    result["weights"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(
        UserError, match=r"weights\.safetensors (is damaged|does not fit)"
    ) as caught:
        read(folder)
    assert len(str(caught.value).splitlines()) == 1


def flip(path: Path) -> None:
    """Alter one bit of the last tensor."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_a_run_does_not_start_from_altered_weights(cnn: Run, tmp_path: Path) -> None:
    folder = tmp_path / "record"
    shutil.copytree(cnn.record.directory, folder)
    given = cnn.config.model.model_copy(update={"weights": folder / "weights.safetensors"})
    config = cnn.config.model_copy(update={"model": given})
    images = cnn.dataset.load()
    set_up(config, images)
    flip(folder / "weights.safetensors")
    with pytest.raises(UserError, match=r"its SHA-256 is not that of result\.json"):
        set_up(config, images)


def rewrite(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
