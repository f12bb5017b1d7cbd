"""TorchvisionSet on small files in the published formats, without a network."""

import fcntl
import gzip
import hashlib
import pickle
import socket
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from opt_runner.datasets import ImageFolder, TorchvisionSet, published_set
from opt_runner.errors import UserError
from tests.datasets.idx_files import IDX, idx, write_idx


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def write_cifar(root: Path, source: str, monkeypatch, rows: int = 4) -> dict[str, dict]:
    """The set's files, published as torchvision sees it; their content by name."""
    kind = getattr(datasets, source)
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    contents = {}

    def publish(name: str, content: dict) -> str:
        contents[name] = content
        (folder / name).write_bytes(pickle.dumps(content))
        return md5((folder / name).read_bytes())

    def batch(name: str) -> list[str]:
        content = {"data": draw.integers(256, size=(rows, 3072), dtype=np.uint8)}
        if source == "CIFAR10":
            content["labels"] = draw.integers(10, size=rows).tolist()
        else:
            content["coarse_labels"] = draw.integers(20, size=rows).tolist()
            content["fine_labels"] = draw.integers(100, size=rows).tolist()
        return [name, publish(name, content)]

    for part in ("train_list", "test_list"):
        monkeypatch.setattr(kind, part, [batch(name) for name, _ in getattr(kind, part)])
    classes = [f"class {i}" for i in range(10 if source == "CIFAR10" else 100)]
    meta_md5 = publish(kind.meta["filename"], {kind.meta["key"]: classes})
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": meta_md5})
    return contents


@pytest.fixture
def no_network(monkeypatch) -> str:
    """Every set is published at a port of this machine at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    for kind in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(kind, "mirrors", [url, url])
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setattr(kind, "url", url + kind.filename)
    return url


@pytest.mark.parametrize("source", ["MNIST", "FashionMNIST"])
@pytest.mark.parametrize("download", [True, False])
def test_idx_files(tmp_path: Path, no_network: str, source: str, download: bool) -> None:
    values = write_idx(tmp_path / source / "raw")
    images = TorchvisionSet(source, str(tmp_path), download).load()
    for half, name in ((images.train, "train"), (images.test, "t10k")):
        stored, labels = values[f"{name}-images-idx3-ubyte"], values[f"{name}-labels-idx1-ubyte"]
        np.testing.assert_array_equal(half.inputs[:, 0], stored)
        np.testing.assert_array_equal(half.targets, labels)
    assert images.train.inputs.shape == (12, 1, 28, 28)
    assert images.num_classes == 10


@pytest.mark.parametrize(("source", "count"), [("CIFAR10", 20), ("CIFAR100", 4)])
def test_cifar_files(tmp_path: Path, no_network: str, monkeypatch, source: str, count: int) -> None:
    contents = write_cifar(tmp_path, source, monkeypatch)
    images = TorchvisionSet(source, str(tmp_path), download=False).load()
    first = contents["data_batch_1" if source == "CIFAR10" else "train"]
    labels = first["labels" if source == "CIFAR10" else "fine_labels"]
    assert images.train.inputs.shape == (count, 3, 32, 32)
    assert images.train.inputs.is_contiguous()
    np.testing.assert_array_equal(images.train.inputs[:4].flatten(1), first["data"])
    assert images.train.targets[:4].tolist() == labels
    assert images.classes[1] == "class 1"
    assert images.num_classes == (10 if source == "CIFAR10" else 100)


def test_packed_idx_files_are_unpacked(tmp_path: Path, no_network: str, monkeypatch) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    resources = []
    for name in IDX:
        packed = gzip.compress((raw / name).read_bytes())
        (raw / f"{name}.gz").write_bytes(packed)
        (raw / name).unlink()
        resources.append((f"{name}.gz", md5(packed)))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    assert len(TorchvisionSet("MNIST", str(tmp_path)).load().train.inputs) == 12


def test_packed_cifar_mends_a_damaged_file(tmp_path: Path, no_network: str, monkeypatch) -> None:
    kind = datasets.CIFAR10
    write_cifar(tmp_path, "CIFAR10", monkeypatch)
    with tarfile.open(tmp_path / kind.filename, "w:gz") as tar:
        tar.add(tmp_path / kind.base_folder, kind.base_folder)
    monkeypatch.setattr(kind, "tgz_md5", md5((tmp_path / kind.filename).read_bytes()))
    (tmp_path / kind.base_folder / "data_batch_3").write_bytes(b"cut")
    assert len(TorchvisionSet("CIFAR10", str(tmp_path)).load().train.inputs) == 20


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("MNIST", "MNIST/raw/train-images-idx3-ubyte"),
        ("FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte"),
        ("CIFAR10", "cifar-10-batches-py/data_batch_1"),
        ("CIFAR100", "cifar-100-python/train"),
    ],
)
def test_missing_files(tmp_path: Path, no_network: str, source: str, file: str) -> None:
    held = TorchvisionSet(source, str(tmp_path), download=False)
    for call in (held.check, held.load):
        with pytest.raises(UserError, match=rf"{source}: .*{file} is missing: .*download=true"):
            call()
    fetched = TorchvisionSet(source, str(tmp_path))
    fetched.check()
    with pytest.raises(UserError) as caught:
        fetched.load()
    message = str(caught.value)
    assert f"{file} is missing and could not be fetched" in message
    assert "refused" in message
    assert f"into {(tmp_path / file).parent} yourself and set download=false" in message
    assert "\n" not in message
    assert socket.getdefaulttimeout() is None


def test_silent_server_is_not_waited_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("opt_runner.files._SECONDS_TO_ANSWER", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(datasets.MNIST, "mirrors", [url, url])
        with pytest.raises(UserError, match="timed out"):
            TorchvisionSet("MNIST", str(tmp_path)).load()


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("damage", ["empty", "header", "short", "long", "other type"])
def test_damaged_idx_file_is_one_line(
    tmp_path: Path, no_network: str, damage: str, download: bool
) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    whole = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "header": whole[:6],
            "short": whole[:-100],
            "long": whole + b"x",
            "other type": whole[:2] + b"\x0d" + whole[3:],
        }[damage]
    )
    with pytest.raises(UserError, match=r"MNIST/raw does not hold MNIST: .*delete it"):
        TorchvisionSet("MNIST", str(tmp_path), download).load()


def test_halves_of_unequal_length(tmp_path: Path, no_network: str) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(11, np.uint8)))
    with pytest.raises(UserError, match=r"MNIST/raw does not hold MNIST: 12 .* 11 targets"):
        TorchvisionSet("MNIST", str(tmp_path)).load()


def test_damaged_pickle_is_named_and_never_opened(
    tmp_path: Path, no_network: str, monkeypatch
) -> None:
    write_cifar(tmp_path, "CIFAR100", monkeypatch)
    (tmp_path / "cifar-100-python" / "test").write_bytes(b"cos\nmkdir\n(S'ran'\ntR.")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"cifar-100-python/test is damaged .*delete it"):
        TorchvisionSet("CIFAR100", ".", download=False).load()
    with pytest.raises(UserError, match=r"test is damaged .* could not be fetched"):
        TorchvisionSet("CIFAR100", ".").load()
    assert not Path("ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {"data": np.zeros((4, 5), np.uint8)}, {"data": "?"}])
def test_pickle_of_another_shape(
    tmp_path: Path, no_network: str, monkeypatch, content: object
) -> None:
    write_cifar(tmp_path, "CIFAR10", monkeypatch)
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    file.write_bytes(pickle.dumps(content))
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5(file.read_bytes())]])
    with pytest.raises(UserError, match="cifar-10-batches-py does not hold CIFAR10"):
        TorchvisionSet("CIFAR10", str(tmp_path), download=False).load()


def test_fingerprint_is_the_same_before_and_after_a_download(tmp_path: Path) -> None:
    prints = {
        source: TorchvisionSet(source, str(tmp_path)).fingerprint()
        for source in ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100")
    }
    assert all(name == source for source, name in prints.items())


def test_fingerprint_of_other_files_than_the_published(tmp_path: Path) -> None:
    write_idx(tmp_path / "here" / "MNIST" / "raw")
    write_idx(tmp_path / "there" / "MNIST" / "raw")
    here = TorchvisionSet("MNIST", str(tmp_path / "here")).fingerprint()
    assert here == TorchvisionSet("MNIST", str(tmp_path / "there")).fingerprint() != "MNIST"


def test_fetching_waits_for_the_lock(tmp_path: Path, no_network: str) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    loaded = threading.Event()

    def load() -> None:
        TorchvisionSet("MNIST", str(tmp_path)).load()
        loaded.set()

    with (tmp_path / ".MNIST.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=load, daemon=True)
        waiting.start()
        assert not loaded.wait(0.3)
    assert loaded.wait(10)
    waiting.join()


def test_read_only_root_is_read(tmp_path: Path, no_network: str, monkeypatch) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    opened = Path.open

    def read_only(self: Path, mode: str = "r", *rest):
        if mode == "w":
            raise PermissionError(13, "Permission denied")
        return opened(self, mode, *rest)

    monkeypatch.setattr(Path, "open", read_only)
    assert isinstance(TorchvisionSet("MNIST", str(tmp_path)).load().train.inputs, torch.Tensor)


def class_folders(root: Path, classes: int) -> None:
    for number in range(classes):
        for half in ("train", "test"):
            folder = root / half / f"c{number:03}"
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / "a.webp", lossless=True)


def test_a_published_set_may_lie_in_class_folders(tmp_path: Path) -> None:
    class_folders(tmp_path, 10)
    found = published_set("CIFAR10", str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert isinstance(found, ImageFolder)
    assert found.cache_dir == tmp_path / "cache"
    images = found.load()
    assert images.classes == [f"c{number:03}" for number in range(10)]
    assert images.size == (32, 32)


def test_class_folders_of_another_set_are_refused(tmp_path: Path) -> None:
    class_folders(tmp_path, 3)
    with pytest.raises(UserError, match=r"has 3 class folders, and CIFAR100 has 100"):
        published_set("CIFAR100", str(tmp_path))


def test_without_folders_it_is_torchvisions_own(tmp_path: Path) -> None:
    assert isinstance(published_set("CIFAR10", str(tmp_path)), TorchvisionSet)
