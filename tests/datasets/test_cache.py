"""The cache of decoded images: used where it is right, rebuilt where not, never in the way."""

import logging
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opt_runner.datasets.folder import ImageFolder, cache, image_folder


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

    def counted(paths, size, channels):
        calls.append(len(paths))
        return decode_all(paths, size, channels)

    monkeypatch.setattr(image_folder, "decode_all", counted)
    return calls


def load(root: Path, folder: Path, **options):
    return ImageFolder(str(root), cache_dir=str(folder), **options).load()


def same(first, second) -> bool:
    return first.classes == second.classes and all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in cache.TENSORS
    )


def test_second_load_decodes_nothing(root: Path, folder: Path, decoded: list[int]) -> None:
    first, second = load(root, folder), load(root, folder)
    assert decoded == [5]
    assert same(first, second)


def test_moved_folder_is_still_known(root: Path, folder: Path, decoded: list[int]) -> None:
    load(root, folder)
    load(root.rename(root.with_name("moved")), folder)
    assert decoded == [5]


def test_each_choice_of_options_has_its_own_file(root: Path, folder: Path, decoded) -> None:
    for options in ({}, {"size": 4}, {"channels": 1}, {"size": 4, "channels": 1}):
        load(root, folder, **options)
    assert len(decoded) == len(list(folder.iterdir())) == 4


def test_changed_file_is_seen(root: Path, folder: Path, decoded: list[int]) -> None:
    path = root / "train/b/1.bmp"
    before, status = load(root, folder), path.stat()
    paint(path, seed=99)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as tar and rsync do
    after = load(root, folder)
    assert path.stat().st_size == status.st_size
    assert decoded == [5, 5]
    assert not torch.equal(before.train_images[2], after.train_images[2])
    paint(root / "train/b/2.bmp", seed=5)
    assert len(load(root, folder).train_images) == 4


@pytest.mark.parametrize("damage", ["empty", "short", "garbage", "flipped bit", "other pickle"])
def test_damaged_cache_is_rebuilt(
    root: Path, folder: Path, decoded: list[int], caplog, damage: str
) -> None:
    first = load(root, folder)
    (path,) = folder.iterdir()
    content = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "short":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        path.write_bytes(os.urandom(len(content)))
    elif damage == "flipped bit":
        at = content.index(first.train_images.numpy().tobytes()[:64])
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    else:
        torch.save({"train_images": first.train_images}, path)
    assert same(load(root, folder), first)
    assert decoded == [5, 5]
    assert "is damaged" in caplog.text
    load(root, folder)
    assert decoded == [5, 5]


def test_cache_of_another_key_is_not_trusted(root: Path, folder: Path, decoded: list[int]) -> None:
    load(root, folder)
    (other,) = folder.iterdir()
    small = load(root, folder, size=4)
    (path,) = set(folder.iterdir()) - {other}
    other.replace(path)
    assert same(load(root, folder, size=4), small)


def test_cache_file_cannot_run_code(root: Path, folder: Path, decoded: list[int]) -> None:
    load(root, folder)
    (path,) = folder.iterdir()
    torch.save({"key": Evil(folder / "ran")}, path)
    load(root, folder)
    assert decoded == [5, 5]
    assert not (folder / "ran").exists()


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("obstacle", ["a file in its place", "no permission"])
def test_unwritable_folder_is_only_a_warning(
    root: Path, folder: Path, decoded: list[int], caplog, obstacle: str
) -> None:
    if obstacle == "no permission":
        folder.mkdir(mode=0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write anywhere")
    else:
        folder.touch()
    with caplog.at_level(logging.WARNING, logger="opt_runner.datasets.folder.cache"):
        assert len(load(root, folder).train_images) == 3
    assert "not cached" in caplog.text


def test_interrupted_write_leaves_nothing(root: Path, folder: Path, monkeypatch) -> None:
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(root, folder)
    assert list(folder.iterdir()) == []


def test_full_disk_is_only_a_warning(root: Path, folder: Path, monkeypatch, caplog) -> None:
    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    assert len(load(root, folder).train_images) == 3
    assert "not cached" in caplog.text
    assert list(folder.iterdir()) == []


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
    return int(load(root, folder).train_images.sum())


def test_processes_side_by_side(root: Path, folder: Path) -> None:
    expected = int(load(root, folder.with_name("apart")).train_images.sum())
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.starmap(_sum, [(root, folder)] * 10)
    assert sums == [expected] * 10
    assert len(list(folder.iterdir())) == 1
