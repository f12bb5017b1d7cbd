"""Files that somebody cut, edited or replaced are named in a line, at once, whatever they hold."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from opt_runner.errors import UserError
from opt_runner.records.reading import (
    DamagedFile,
    folders_below,
    printable,
    read_json,
    read_text,
    read_yaml,
)

ANYTHING = st.text(st.characters(exclude_categories=()))
LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, fault in ((tmp_path / "pipe", "is no regular file"), (tmp_path, "cannot be read")):
        with pytest.raises(UserError, match=fault):
            read_text(path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a: [1,\n", "did not find expected node content in line 2"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b"a: \x00", "control characters are not allowed"),
        (b"- 1\n", "it holds no keys"),
        (b"", "it holds no keys"),
        (b"1: 2\n", "its key 1 is no text"),
        (b"a: 2020-01-01\n", "it holds a date"),
        (b"a: !!set {b}\n", "it holds a set"),
        (b"a: !!python/object:os.system {}\n", "could not determine a constructor"),
        pytest.param(b"a: " + b"[" * 100_000, "maximum nesting depth", id="deep"),
        (b"a: &a [*a]\n", "damaged"),
        pytest.param(LAUGHS.encode(), "it stands for more than 100,000 values", id="laughs"),
    ],
)
def test_yaml_that_is_no_config_is_damaged(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=fault) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path} is damaged: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [pytest.param("[" * 100_000, id="deep"), '{"a": 1e400}', '{"a": NaN}', '{"a": -Infinity}',
     '{"a": ' + "9" * 400 + "}", '{"a": "x"}', '{"a": null}', "[]", "{", ""],
)  # fmt: skip
def test_json_of_another_type_or_with_absurd_numbers_is_damaged(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DamagedFile, match="is damaged") as error:
        read_json(path, TypeAdapter(dict[str, float]))
    assert "\n" not in str(error.value)


def test_json_is_read_as_written(tmp_path: Path) -> None:
    content = {"a": 1.5, "b": -2e-7, "c": 10**17}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "a.json", TypeAdapter(dict[str, float | int])) == content


def test_folders_are_seen_once_without_hidden_and_former_ones(tmp_path: Path) -> None:
    for name in ("a/b", "a/.sweep", "a/c.old-1"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    found = list(folders_below([tmp_path, tmp_path / "a"], pytest.fail))
    assert found == [(tmp_path, set()), (tmp_path / "a", set()), (tmp_path / "a/b", {"file"})]


def test_folders_behind_links_are_seen_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere/b").mkdir(parents=True)
    (tmp_path / "elsewhere/b/up").symlink_to(tmp_path / "elsewhere")  # a circle
    (tmp_path / "a").mkdir()
    for name in ("first", "second"):
        (tmp_path / "a" / name).symlink_to(tmp_path / "elsewhere")
    for name in ("c.old-1", ".cache"):
        (tmp_path / name).mkdir()
        (tmp_path / "a" / f"to-{len(name)}").symlink_to(tmp_path / name)
    found = list(folders_below([tmp_path / "a"], pytest.fail))
    assert [str(folder.relative_to(tmp_path)) for folder, _ in found] == [
        "a",
        "a/first",
        "a/first/b",
    ]


@given(ANYTHING)
def test_printable_text_has_nothing_that_a_terminal_obeys(text: str) -> None:
    found = printable(text)
    assert len(found) == len(text)
    assert all(c.isprintable() or c in "\n\t" for c in found)
    assert found.encode().decode() == found == printable(found)
    if text.isprintable():
        assert found == text
