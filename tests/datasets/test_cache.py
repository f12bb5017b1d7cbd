"""The cache of decoded images: used where it is right, rebuilt where not, never in the way."""

import errno
import multiprocessing
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opt_runner.datasets import ImageFolder, Images
from opt_runner.datasets.folder import cache, image_folder
from opt_runner.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Uncompressed images, whose files keep their size whatever they show."""
    root = tmp_path / "data"
    for i, name in enumerate(["train/a/0", "train/b/0", "train/b/1", "test/a/0", "test/b/0"]):
        paint(root / f"{name}.bmp", i)
    return root


def paint(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Grows by one each time that images are decoded."""
    calls: list[int] = []
    decode_all = image_folder.decode_all

    def counted(paths, *rest):
        calls.append(len(paths))
        return decode_all(paths, *rest)

    monkeypatch.setattr(image_folder, "decode_all", counted)
    return calls


def load(root: Path, folder: Path, **options):
    return ImageFolder(str(root), cache_dir=str(folder), **options).load().to("cpu")


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("images-*.npy"))


def same(first, second) -> bool:
    halves = ((first.train, second.train), (first.test, second.test))
    return first.classes == second.classes and all(
        torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)
        for one, other in halves
    )


def test_second_load_decodes_nothing(root: Path, folder: Path, decoded: list[int]) -> None:
    first, second = load(root, folder), load(root, folder)
    assert decoded == [5]
    assert same(first, second)


def test_moved_folder_is_still_known(root: Path, folder: Path, decoded: list[int]) -> None:
    load(root, folder)
    load(root.rename(root.with_name("moved")), folder)
    assert decoded == [5]


def test_a_copy_is_still_known(root: Path, folder: Path, decoded: list[int]) -> None:
    load(root, folder)
    copy = shutil.copytree(root, root.with_name("copy"), copy_function=shutil.copyfile)
    load(copy, folder)
    assert decoded == [5]


def test_files_are_hashed_again_only_where_one_was_touched(
    root: Path, folder: Path, decoded: list[int], monkeypatch
) -> None:
    hashed: list[int] = []
    digest_all = image_folder.digest_all

    def counted(paths: list[str]) -> list[str]:
        hashed.append(len(paths))
        return digest_all(paths)

    monkeypatch.setattr(image_folder, "digest_all", counted)
    for _ in range(2):
        load(root, folder)
    assert hashed == [5]
    time.sleep(0.02)
    os.utime(root / "test/a/0.bmp")
    for _ in range(2):
        load(root, folder)
    assert hashed == decoded * 2
    for file in folder.glob("content-*"):
        file.write_text("damaged")
    load(root, folder)
    assert hashed == [5, 5, 5]


def test_each_choice_of_options_has_its_own_file(root: Path, folder: Path, decoded) -> None:
    for options in ({}, {"size": 4}, {"channels": 1}, {"size": 4, "channels": 1}):
        load(root, folder, **options)
    assert len(decoded) == len(files(folder)) == 4


def test_changed_file_is_seen(root: Path, folder: Path, decoded: list[int]) -> None:
    path = root / "train/b/1.bmp"
    before, status = load(root, folder), path.stat()
    paint(path, seed=99)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as tar and rsync do
    after = load(root, folder)
    assert path.stat().st_size == status.st_size
    assert decoded == [5, 5]
    assert not torch.equal(before.train.inputs[2], after.train.inputs[2])
    paint(root / "train/b/2.bmp", seed=5)
    assert len(load(root, folder).train.inputs) == 4


@pytest.mark.parametrize(
    "damage", ["empty", "short", "garbage", "flipped bit", "other shape", "no note", "other note"]
)
def test_damaged_cache_is_rebuilt(
    root: Path, folder: Path, decoded: list[int], caplog, damage: str
) -> None:
    first = clone(load(root, folder))
    (path,) = files(folder)
    note, content = path.with_suffix(".json"), path.read_bytes()
    time.sleep(0.02)  # the kernel's clock for changes of files ticks every few milliseconds
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "short":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        path.write_bytes(os.urandom(len(content)))
    elif damage == "flipped bit":
        path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    elif damage == "other shape":
        path.write_bytes(content.replace(b"(5, 3, 8, 8)", b"(5, 3, 4, 8)"))
    elif damage == "no note":
        note.unlink()
    else:
        note.write_text("{}")
    assert same(load(root, folder), first)
    assert decoded == [5, 5]
    assert "is damaged" in caplog.text
    load(root, folder)
    assert decoded == [5, 5]


def clone(images: Images) -> Images:
    """In memory: damage to a file is damage to its map."""
    train, test = (
        replace(half, inputs=half.inputs.clone()) for half in (images.train, images.test)
    )
    return replace(images, train=train, test=test)


def test_the_checksum_is_computed_again_only_where_the_file_was_touched(
    root: Path, folder: Path, decoded: list[int], monkeypatch
) -> None:
    load(root, folder)
    (path,) = files(folder)
    summed: list[Path] = []
    sha256 = cache.sha256
    monkeypatch.setattr(cache, "sha256", lambda path: summed.append(path) or sha256(path))
    load(root, folder)
    assert summed == []
    time.sleep(0.02)
    path.chmod(0o600)
    for _ in range(2):
        load(root, folder)
        assert summed == [path]
    assert decoded == [5]


def test_cache_of_another_key_is_not_trusted(root: Path, folder: Path, decoded: list[int]) -> None:
    load(root, folder)
    (other,) = files(folder)
    small = clone(load(root, folder, size=4))
    (path,) = set(files(folder)) - {other}
    other.with_suffix(".json").replace(path.with_suffix(".json"))
    other.replace(path)
    assert same(load(root, folder, size=4), small)


def test_a_file_that_a_killed_process_was_writing_is_removed(root: Path, folder: Path) -> None:
    folder.mkdir()
    abandoned = folder / f".images-{'0a' * 16}.npy.0123abcd"
    abandoned.touch()
    load(root, folder)
    assert not abandoned.exists()


@pytest.mark.parametrize("obstacle", ["a file in its place", "no permission"])
def test_unwritable_folder_is_one_line(root: Path, folder: Path, obstacle: str) -> None:
    if obstacle == "no permission":
        folder.mkdir(mode=0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write anywhere")
    else:
        folder.touch()
    with pytest.raises(UserError, match=r"^.*cache.*; the 0.0 GiB .* dataset.cache_dir=DIR$"):
        load(root, folder)


def test_interrupted_write_leaves_nothing(root: Path, folder: Path, monkeypatch) -> None:
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(root, folder)
    assert list(folder.glob("*images-*.npy*")) == []


@pytest.mark.parametrize("how", ["an error", "a part is written"])
def test_full_disk_is_one_line(root: Path, folder: Path, monkeypatch, how: str) -> None:
    def full(descriptor: int, values: bytes, offset: int) -> int:
        if how == "an error":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(values) - 1

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"(?i)^cannot write .*(space left|disk is full).*DIR$"):
        load(root, folder)
    assert list(folder.glob("*images-*.npy*")) == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "/x"}, "/x/opt-runner"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/opt-runner"),
    ],
)
def test_default_folder(monkeypatch, variables: dict[str, str], expected: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cache.default_folder()) == expected
    assert str(ImageFolder("data").cache_dir) == expected


def _sum(root: Path, folder: Path) -> int:
    return int(load(root, folder).train.inputs.sum())


def test_processes_side_by_side(root: Path, folder: Path) -> None:
    expected = int(load(root, folder.with_name("apart")).train.inputs.sum())
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.starmap(_sum, [(root, folder)] * 10)
    assert sums == [expected] * 10
    assert len(files(folder)) == 1
