"""A trained network on its own test images and on others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import HydraException

from opt_runner.cli.eval import main
from opt_runner.config.compose import with_overrides
from opt_runner.config.schema import Config, DatasetChoice
from opt_runner.errors import UserError
from opt_runner.run.run import Run
from opt_runner.trained import Evaluation, evaluate, read

COMMAND = [sys.executable, "-c", "from opt_runner.cli.eval import main; main()"]
ROOMS = ("dataset", "hardware")


def on(cnn: Run, name: str) -> Evaluation:
    """The network on one of `sets`."""
    content = {"name": name.lower(), "_target_": f"tests.trained.sets.{name}"}
    dataset = DatasetChoice.model_validate(content)
    config = cnn.config.model_copy(update={"dataset": dataset})
    return evaluate(read(cnn.record.directory), config)


def own(cnn: Run) -> Evaluation:
    return evaluate(read(cnn.record.directory), cnn.config)


def test_its_own_test_images_give_what_the_run_found(cnn: Run) -> None:
    result, found = cnn.record.read_result(), own(cnn)
    assert result is not None
    assert found.numbers["error"] == result.test_error
    assert found.numbers["nll"] == pytest.approx(result.tested["nll"], rel=1e-6)
    assert found.numbers["calibration_error"] == pytest.approx(
        result.tested["calibration_error"], rel=1e-6
    )
    rows = [sum(row) for row in found.confusion]
    labels = cnn.dataset.load().test.targets
    assert rows == labels.bincount().tolist()
    right = sum(found.confusion[i][i] for i in range(10))
    assert 100 * (1 - right / found.samples) == pytest.approx(found.numbers["error"])
    counts = [count for count, _, _ in found.mistaken]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == found.samples - right


def test_classes_are_matched_by_name_else_by_position(cnn: Run) -> None:
    expected = own(cnn)
    assert on(cnn, "Reversed").confusion == expected.confusion
    few = on(cnn, "Few")
    assert few.confusion[:5] == expected.confusion[:5]
    assert few.samples == sum(map(sum, few.confusion[:5]))
    assert not few.by_position
    renamed = on(cnn, "Renamed")
    assert renamed.confusion == expected.confusion
    assert renamed.by_position


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Unknown", r"its 5 classes are not the network's 10: a, b, c and 2 more against 0, 1, 2"),
        ("Larger", r"it has images \(1, 16, 16\), and the network takes images \(1, 8, 8\)"),
    ],
)
def test_images_that_do_not_fit(cnn: Run, name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        on(cnn, name)


def changed(cnn: Run, *overrides: str, folder: Path | None = None) -> Config:
    return with_overrides(cnn.config.content, overrides, ROOMS, folder)


def test_overrides_of_the_dataset_and_the_hardware(cnn: Run, tmp_path: Path) -> None:
    assert changed(cnn) == cnn.config
    found = changed(cnn, "dataset=image_folder", f"dataset.root={tmp_path}", "hardware.threads=3")
    assert found.dataset.options["root"] == str(tmp_path)
    assert found.hardware.threads == 3
    assert found.budget == cnn.config.budget, "the run's own, whatever the dataset's group says"
    own_folder = tmp_path / "dataset"
    own_folder.mkdir()
    (own_folder / "few.yaml").write_text("name: few\n_target_: tests.trained.sets.Few\n")
    assert changed(cnn, "dataset=few", folder=tmp_path).dataset.name == "few"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model=mlp", "model=mlp: only dataset=CHOICE, dataset.KEY=VALUE and hardware"),
        ("dataset=mnist,cifar10", "only dataset=CHOICE"),
        ("dataset.root=here", "unknown key 'dataset.root'"),
        ("dataset.size=16", "images (1, 16, 16), and the network takes"),
        ("dataset=image_folder", "dataset.root must be given"),
        ("dataset=nothing", "nothing"),
        ("dataset", "missing EQUAL"),
    ],
)
def test_overrides_that_are_mistakes(cnn: Run, override: str, says: str) -> None:
    with pytest.raises((UserError, HydraException)) as caught:
        evaluate(read(cnn.record.directory), changed(cnn, override))
    assert says in str(caught.value)


def test_the_command(record: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, record, "hardware=cpu", "--out", "found.json", "hardware.threads=1"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    result = json.loads(record.joinpath("result.json").read_text())
    assert found["test_error"] == result["test_error"]
    assert f"test error {result['test_error']:.2f}%" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    matrix = [row for row in rows if row and row[0] in found["classes"] and len(row) > 1]
    assert len(matrix) == 10


def test_a_folder_that_is_no_record_ends_the_command_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"opt-eval: {tmp_path} is no record of opt-run")
