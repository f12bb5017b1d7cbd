"""Texts: windows, parts by position, bits per character."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from opt_runner.datasets import TextFile
from opt_runner.datasets.text import Text, TextTally
from opt_runner.errors import UserError

TEXT = "the cat sat on the mat; the dog lay on the log.\n" * 8


def written(tmp_path: Path, text: str = TEXT) -> str:
    (tmp_path / "text.txt").write_text(text)
    return str(tmp_path / "text.txt")


def test_windows_follow_each_other_and_targets_are_one_ahead(tmp_path: Path) -> None:
    data = TextFile(written(tmp_path), context=7, test_share=0.25).load()
    characters = data.class_names
    train, test = ("".join(characters[i] for i in half.inputs.flatten()) for half in
                   (data.train, data.test))  # fmt: skip
    assert TEXT.startswith(train)
    assert len(train) == 7 * ((288 - 1) // 7)
    assert TEXT[288:].startswith(test)
    ahead = "".join(characters[i] for i in data.train.targets.flatten())
    assert ahead == TEXT[1 : len(train) + 1]
    assert data.train.inputs.dtype == torch.uint8
    assert data.gives == {"vocabulary": len(set(TEXT)), "context": 7}


def test_validation_is_the_end_of_the_training_part(tmp_path: Path) -> None:
    data = TextFile(written(tmp_path), context=5).load()
    kept, held = data.hold_back(0.2, seed=3)
    assert len(held) == int(0.2 * len(data.train))
    assert torch.equal(torch.cat([kept.train.inputs, held.inputs]), data.train.inputs)
    with pytest.raises(UserError, match=r"dataset.validation=0.001 of 69 windows is none"):
        data.hold_back(0.001, seed=0)


def test_bytes_and_characters_beyond_ascii(tmp_path: Path) -> None:
    text = "é€😀ab\n" * 40
    path = written(tmp_path, text)
    letters, in_bytes = (TextFile(path, kind, context=4).load() for kind in ("characters", "bytes"))
    assert set(letters.class_names) == set(text)
    assert in_bytes.class_names == []
    assert in_bytes.vocabulary == 256
    assert letters.characters == 1
    assert bytes(in_bytes.train.inputs[0].tolist()) == text.encode()[:4]


def test_characters_of_a_token_are_those_of_the_test_part(tmp_path: Path) -> None:
    """900 letters of one byte to train on, 50 of two bytes to test on."""
    data = TextFile(written(tmp_path, "a" * 900 + "é" * 50), "bytes", context=10).load()
    assert data.test.inputs.shape == (9, 10)
    assert data.characters == 0.5


def test_bits_per_character_by_hand() -> None:
    """Two tokens for each character: a byte is half a letter."""
    tally = TextTally(torch.device("cpu"), characters=0.5)
    p = torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[0.125, 0.875], [0.5, 0.5]]])
    targets = torch.tensor([[0, 0], [0, 1]], dtype=torch.uint8)
    for outputs, right in zip(p.log(), targets, strict=True):
        tally.add(outputs[None], right[None])
    found = tally.numbers()
    bits = (1 + 2 + 3 + 1) / 4
    assert found["error"] == pytest.approx(bits / 0.5)
    assert found["nll"] == pytest.approx(bits * math.log(2))
    assert found["perplexity"] == pytest.approx(2**bits)


def test_a_folder_is_its_text_files_in_order(tmp_path: Path) -> None:
    (tmp_path / ".hidden").mkdir()
    for name, text in (
        ("b.txt", "second " * 20), ("a.txt", "first " * 20), ("c.md", "no"), ("._a.txt", "no"),
        (".hidden/a.txt", "no"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
    whole = TextFile(str(tmp_path), context=3)
    whole.check()
    one = TextFile(written(tmp_path / "..", "first " * 20 + "\n" + "second " * 20), context=3)
    assert whole.fingerprint() == one.fingerprint()
    assert torch.equal(whole.load().train.inputs, one.load().train.inputs)


def test_what_cuts_the_text_is_in_the_fingerprint(tmp_path: Path) -> None:
    path = written(tmp_path)
    ways: list[dict[str, Any]] = [
        {}, {"context": 5}, {"test_share": 0.2}, {"tokens": "bytes"},
    ]  # fmt: skip
    assert len({TextFile(path, **way).fingerprint() for way in ways}) == len(ways)


def test_a_tokenizer_that_cuts_or_pads_is_used_on_the_whole_text(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: number for number, word in enumerate(["[UNK]", *sorted(set(TEXT.split()))])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    path, file = written(tmp_path), tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    whole = TextFile(path, str(file), context=3).load()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=999)
    tokenizer.save(str(file))
    again = TextFile(path, str(file), context=3).load()
    assert torch.equal(again.train.inputs, whole.train.inputs)
    assert again.characters == whole.characters
    del words["the"]
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "[UNK]")).save(str(file))
    with pytest.raises(UserError, match=r"drops \d+% of the text, or has unknown tokens"):
        TextFile(path, str(file), context=3).load()


def test_a_tokenizer_that_knows_the_unknown_by_its_number(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    path, file = written(tmp_path), tmp_path / "tokenizer.json"
    pieces = [("<unk>", 0.0), *((letter, -1.0) for letter in sorted(set(TEXT)))]
    for kept, refused in ((len(pieces), False), (8, True)):
        model = tokenizers.models.Unigram(pieces[:kept], unk_id=0)
        tokenizers.Tokenizer(model).save(str(file))
        if refused:
            with pytest.raises(UserError, match=r"drops \d+% of the text, or has unknown tokens"):
                TextFile(path, str(file), context=3).load()
        else:
            assert TextFile(path, str(file), context=3).load().vocabulary == len(pieces)


def test_a_tokenizer_with_gaps_in_its_numbers(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    path, file = written(tmp_path), tmp_path / "tokenizer.json"
    numbers = {letter: number for number, letter in enumerate(sorted(set(TEXT)))}
    numbers["e"] = 256 + numbers["t"]
    tokenizers.Tokenizer(tokenizers.models.BPE(numbers, [])).save(str(file))
    data = TextFile(path, str(file), context=3).load()
    assert data.vocabulary == numbers["e"] + 1
    assert data.train.inputs.max() == numbers["e"]


@pytest.mark.parametrize(("made", "keeps"), [("Lowercase", False), ("Prepend", True)])
def test_a_tokenizer_that_changes_the_text(tmp_path: Path, made: str, keeps: bool) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    path, file = written(tmp_path), tmp_path / "tokenizer.json"
    Path(path).write_text(TEXT.replace("the", "The the"))
    letters = {letter: number for number, letter in enumerate(sorted(set(TEXT) | {"T", "\u2581"}))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(letters, []))
    normalizer = getattr(tokenizers.normalizers, made)
    tokenizer.normalizer = normalizer("\u2581") if keeps else normalizer()
    tokenizer.save(str(file))
    if keeps:
        TextFile(path, str(file), context=3).load()
    else:
        with pytest.raises(UserError, match=r"makes \d+ of the text's \d+ characters"):
            TextFile(path, str(file), context=3).load()


def test_a_tokenizer_of_the_library(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: number for number, word in enumerate(["[UNK]", *sorted(set(TEXT.split()))])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[UNK] $A [UNK]", special_tokens=[("[UNK]", 0)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    data = TextFile(written(tmp_path), str(tmp_path / "tokenizer.json"), context=3).load()
    assert data.vocabulary == len(words)
    assert data.train.inputs[0, 0] == words["the"], "marks around a text are no part of it"
    count = data.test.targets.numel()
    said = TEXT.split()[round(len(TEXT.split()) * 0.9) + 1 :][:count]
    assert data.characters == pytest.approx(len(" ".join(said) + " ") / count)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"broken.json is no tokenizer.json"):
        TextFile(written(tmp_path), str(tmp_path / "broken.json")).load()


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (None, {}, r"text.txt does not exist: give a text file"),
        ("", {}, r"a text of 0 characters is too short for windows of 128 tokens"),
        ("short", {}, r"a text of 5 characters is too short .*: set dataset.context"),
        (b"ab\xff", {}, r"text.txt is no UTF-8: byte 2 cannot be read"),
        ("x" * 999, {"tokens": "words"}, r"dataset.tokens=words: no such file; characters, bytes"),
    ],
)
def test_texts_that_are_none(tmp_path: Path, content, options: dict, says: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    dataset = TextFile(str(path), **options)

    def checked() -> None:
        dataset.check()
        dataset.load()

    with pytest.raises(UserError, match=says) as caught:
        checked()
    assert len(str(caught.value).splitlines()) == 1
    if content is None:
        path.mkdir()
        with pytest.raises(UserError, match=r"has no .txt files"):
            TextFile(str(path)).check()


def test_the_text_that_every_python_has() -> None:
    dataset = TextFile()
    dataset.check()
    data = dataset.load()
    assert isinstance(data, Text)
    assert len(data.train) > 2_000
    assert len(dataset.fingerprint()) == 16
