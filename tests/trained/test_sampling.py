"""A run on text: its table, its export, and what it writes."""

import shutil
from pathlib import Path

import pytest

from opt_runner.cli import sample as opt_sample
from opt_runner.config.compose import from_arguments
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.networks import GPT
from opt_runner.records import stored
from opt_runner.report.columns import sheet
from opt_runner.report.tables import compare
from opt_runner.run.execute import execute
from opt_runner.run.interrupt import Interrupted, StopRequest
from opt_runner.run.run import Run, identify
from opt_runner.trained import evaluate, export, read
from opt_runner.trained.sampling import sample
from tests.small import rows

TEXT = "abcabcabcabc\n" * 60


def trained_on(folder: Path, tokens: str, *more: str) -> Run:
    config = from_arguments(
        f"output_dir={folder}", "dataset=text", f"dataset.root={folder}/text.txt",
        f"dataset.tokens={tokens}", "dataset.context=8", "model=gpt_nano", "model.width=16",
        "model.heads=2", "model.depth=1", "optimizer=adamw", "optimizer.lr=0.02", "schedule=cosine",
        "method=cayley", "budget.steps=80", "hardware=cpu", "hardware.threads=1", "tracking=none",
        *more,
    )  # fmt: skip
    found = identify(config)
    result = execute(found, Screen("none"), in_sweep=True, stop=StopRequest())
    assert result is not None
    assert result.status == "finished", result.error
    return found


@pytest.fixture(scope="module", params=["characters", "bytes"])
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Run:
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text(TEXT)
    return trained_on(folder, request.param)


@pytest.mark.parametrize("norm", ["pre", "ngpt"])
def test_a_tied_head_is_the_embedding_also_in_a_record(norm: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    more = ["model.tied=true", f"model.norm={norm}", "method=standard"]
    record = trained_on(tmp_path, "characters", *more).record
    trained = read(record.directory)
    network = trained.network
    assert isinstance(network, GPT)
    assert network.head.weight is network.embedding.weight
    result = record.read_result()
    assert result is not None
    again = evaluate(trained, trained.config).numbers["error"]
    assert again == pytest.approx(result.test_error, rel=1e-6)


def test_it_goes_on_as_the_text_does(run: Run) -> None:
    trained = read(run.record.directory)
    for temperature in (0, 1e-320):  # the second makes logits that overflow
        assert sample(trained, "abca", 8, temperature) == "abcabcabcabc"
    if not trained.interface.classes:  # a byte that is no UTF-8, as a shell passes it
        assert sample(trained, "\udcff", 1).startswith("\ufffd")
    drawn = [sample(trained, "abc", 40, 5.0, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    narrow = sample(trained, "abca", 8, 5.0, top_k=1)
    assert narrow == "abcabcabcabc"
    assert len(sample(trained, "", 30)) == 31


def test_a_text_without_line_breaks_is_begun_with_its_first_character(run: Run) -> None:
    trained = read(run.record.directory)
    if trained.interface.classes:
        trained.interface.classes[:] = ["a", "b", "c", "d"]
        assert sample(trained, "", 3)[0] == "a"


def test_records_that_write_no_text(
    run: Run, cnn: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(run.record.directory, copied)
    (copied / "result.json").unlink()
    for folder, says in (
        (cnn.record.directory, "is of dataset=digits: only runs on dataset=text write text"),
        (copied, "the run must have finished"),
        (tmp_path, "is no record of opt-run"),
    ):
        with pytest.raises(SystemExit) as left:
            opt_sample.main([str(folder)])
        assert left.value.code == 2
        said = capsys.readouterr().err
        assert says in said
        assert len(said.splitlines()) == 1


def test_tokens_of_a_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"

    def write(*words: str) -> None:
        numbers = {word: number for number, word in enumerate(["[UNK]", *words])}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, "[UNK]"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        tokenizer.save(str(path))

    write("a", "b", "c")
    (tmp_path / "text.txt").write_text("a b c " * 300)
    trained = read(trained_on(tmp_path, str(path)).record.directory)
    assert sample(trained, "a b", 4, temperature=0) == "a b c a b c"
    assert sample(trained, "", 2, temperature=0), "a line break is no token here"
    write("b", "c", "a")  # as many, in another order
    with pytest.raises(UserError, match=r"is not the tokenizer that the network was trained with"):
        sample(trained, "a", 1)
    with pytest.raises(UserError, match=r"are not those that the network was trained for"):
        evaluate(trained, trained.config)


def test_streamed_windows_give_the_same_weights(run: Run) -> None:
    hardware = run.config.hardware.model_copy(update={"images": "streamed"})
    update = {"experiment_name": "streamed", "hardware": hardware}
    streamed = identify(run.config.model_copy(update=update))
    assert streamed.signature == run.signature
    result = execute(streamed, Screen("none"), in_sweep=True, stop=StopRequest())
    assert result is not None
    assert "are streamed" in streamed.record.log.read_text()
    assert rows(streamed) == rows(run)
    assert streamed.record.weights.read_bytes() == run.record.weights.read_bytes()


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
    (tmp_path / "four.txt").write_text("wxyz" * 100)
    options = {**trained.config.dataset.model_dump(by_alias=True)}
    in_bytes = not trained.interface.classes
    for name, fits in (("same.txt", True), ("other.txt", in_bytes), ("four.txt", in_bytes)):
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


def test_a_killed_run_ends_as_an_uncut_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rows(run)
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
    assert rows(cut) == expected
    assert cut.record.weights.read_bytes() == weights
