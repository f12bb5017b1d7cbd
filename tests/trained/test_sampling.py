"""A run on text: its table, its export, and what it writes."""

from pathlib import Path

import pytest

from opt_runner.cli import sample as opt_sample
from opt_runner.config.compose import from_arguments
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.records import stored
from opt_runner.report.columns import sheet
from opt_runner.report.tables import compare
from opt_runner.run.execute import execute
from opt_runner.run.interrupt import Interrupted, StopRequest
from opt_runner.run.run import Run, identify
from opt_runner.trained import evaluate, export, read
from opt_runner.trained.sampling import sample

TEXT = "abcabcabcabc\n" * 60


@pytest.fixture(scope="module", params=["characters", "bytes"])
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Run:
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text(TEXT)
    config = from_arguments(
        f"output_dir={folder}", "dataset=text", f"dataset.root={folder}/text.txt",
        f"dataset.tokens={request.param}", "dataset.context=8", "model=gpt_nano", "model.width=16",
        "model.heads=2", "model.depth=1", "optimizer=adamw", "optimizer.lr=0.02", "schedule=cosine",
        "method=cayley", "budget.steps=80", "hardware=cpu", "hardware.threads=1", "tracking=none",
    )  # fmt: skip
    found = identify(config)
    result = execute(found, Screen("none"), in_sweep=True, stop=StopRequest())
    assert result is not None
    assert result.status == "finished", result.error
    return found


def test_it_goes_on_as_the_text_does(run: Run) -> None:
    trained = read(run.record.directory)
    assert sample(trained, "abca", 8, temperature=0) == "abcabcabcabc"
    drawn = [sample(trained, "abc", 40, 5.0, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    narrow = sample(trained, "abca", 8, 5.0, top_k=1)
    assert narrow == "abcabcabcabc"
    assert len(sample(trained, "", 30)) == 31


def test_its_table_and_its_test_are_in_bits_per_character(run: Run) -> None:
    found = stored.read(run.record.directory)
    assert found is not None
    assert found.result is not None
    (table,) = compare([found])
    headings = sheet(table).headings
    assert {"test bits per character", "train bits per character", "test perplexity"} <= {*headings}
    assert not any("%" in heading and "95%" not in heading for heading in headings)
    trained = read(run.record.directory)
    again = evaluate(trained, trained.config)
    assert again.numbers["error"] == pytest.approx(found.result.test_error, rel=1e-6)
    assert again.confusion == []


@pytest.mark.parametrize("kind", ["torch-export", "onnx"])
def test_it_is_exported(run: Run, kind: str, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    difference = export(read(run.record.directory), kind, tmp_path / "net")
    assert difference is None or difference < 1e-4


def test_a_text_with_other_characters_does_not_fit(run: Run, tmp_path: Path) -> None:
    trained = read(run.record.directory)
    (tmp_path / "other.txt").write_text("xyz" * 100)
    (tmp_path / "same.txt").write_text("cb" * 200)
    options = {**trained.config.dataset.model_dump(by_alias=True)}
    for name, fits in (("same.txt", True), ("other.txt", not trained.interface.classes)):
        dataset = type(trained.config.dataset).model_validate(
            options | {"root": str(tmp_path / name)}
        )
        config = trained.config.model_copy(update={"dataset": dataset})
        if fits:
            assert evaluate(trained, config).numbers["error"] > 0
        else:
            with pytest.raises(UserError, match="classes are not the network's"):
                evaluate(trained, config)


def test_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    opt_sample.main([str(run.record.directory), "--prompt", "ab", "--length", "4"])
    said = capsys.readouterr().out
    assert said.startswith("ab")
    assert len(said.rstrip("\n")) >= 2
    for wrong in (["--length", "0"], ["--temperature", "-1"], ["--top-k", "x"]):
        with pytest.raises(SystemExit) as left:
            opt_sample.main([str(run.record.directory), *wrong])
        assert left.value.code == 2
    if read(run.record.directory).interface.classes:
        with pytest.raises(SystemExit) as left:
            opt_sample.main([str(run.record.directory), "--prompt", "aω"])
        assert left.value.code == 2
        assert "'ω' is not among the 4 characters" in capsys.readouterr().err


def without_times(run: Run) -> list[dict]:
    rows = run.record.read_metrics()
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


def test_a_killed_run_ends_as_an_uncut_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = without_times(run)
    weights = run.record.weights.read_bytes()
    config = run.config.model_copy(update={"experiment_name": "cut"})
    cut = identify(config)
    stop = StopRequest()
    append = type(cut.record).append_metrics

    def append_and_stop(record, row) -> None:
        append(record, row)
        if row["step"] == 40:
            stop.signum = 15

    monkeypatch.setattr(type(cut.record), "append_metrics", append_and_stop)
    with pytest.raises(Interrupted):
        execute(cut, Screen("none"), in_sweep=True, stop=stop)
    monkeypatch.undo()
    result = execute(cut, Screen("none"), in_sweep=True, stop=StopRequest())
    assert result is not None
    assert result.status == "finished"
    assert without_times(cut) == rows
    assert cut.record.weights.read_bytes() == weights
