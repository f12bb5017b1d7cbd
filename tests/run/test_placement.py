"""Where the images lie: it changes no result, and those that are streamed take no memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from opt_runner.config.schema import Config
from opt_runner.console.screen import Screen
from opt_runner.datasets import Images, Samples, Stored
from opt_runner.datasets.batches import Batches
from opt_runner.errors import UserError
from opt_runner.records.result import Result
from opt_runner.run import set_up as setting_up
from opt_runner.run.execute import execute
from opt_runner.run.interrupt import StopRequest
from opt_runner.run.run import Run, identify
from opt_runner.run.set_up import Placement
from tests.config.test_config import composed
from tests.datasets.test_stored import ahead_threads
from tests.run.test_execute import ask_to_stop_at
from tests.small import rows

CPU = torch.device("cpu")
TINY = ["model=cnn6", "model.widths=[4,4,4]", "model.fc_width=4", "tracking=none", "hardware=cpu",
        "hardware.threads=1", "budget.steps=12", "evaluate.every=3", "log.every=1",
        "batch_size=16", "dataset=image_folder", "dataset.size=16"]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of each of three classes to train on, 12 to test on."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for half, count in (("train", 40), ("test", 12)):
        for name in "abc":
            folder = root / half / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(256, (20, 16, 3), generator=generator).byte()
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return root


def config(root: Path, folder: Path, *overrides: str) -> Config:
    where = [f"dataset.root={root}", f"dataset.cache_dir={root}/cache", f"output_dir={folder}"]
    return composed(*TINY, *where, *overrides)


def start(run: Run) -> Result:
    result = execute(run, Screen("none"), in_sweep=True, stop=StopRequest())
    assert result is not None
    assert ahead_threads() == []
    return result


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset.validation=0.2", "dataset.share=0.7", "dataset.label_noise=0.2"],
        ["augment.resized_crop=0.2"],
    ],
    ids=["held back, a share, noise", "resized crop"],
)
def test_results_are_equal_to_the_bit_also_when_resumed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    held = identify(config(root, tmp_path / "held", "hardware.images=device", *overrides))
    streamed = identify(config(root, tmp_path / "str", "hardware.images=streamed", *overrides))
    assert held.signature == streamed.signature
    assert start(held).status == "finished"
    with monkeypatch.context() as patched:
        ask_to_stop_at(5, patched)  # in the midst of an epoch
        assert start(streamed).status == "pruned"
    assert start(streamed).status == "finished"
    assert rows(streamed) == rows(held)
    assert streamed.record.weights.read_bytes() == held.record.weights.read_bytes()
    assert "of images are streamed" in streamed.record.log.read_text()
    assert "of images are on cpu" in held.record.log.read_text()


def test_an_error_of_the_thread_is_the_run_s_in_one_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Batches._read

    def damaged(batches: Batches, step: int) -> list[torch.Tensor]:
        if step == 7:
            raise UserError("images.npy cannot be read: Input/output error")
        return read(batches, step)

    monkeypatch.setattr(Batches, "_read", damaged)
    result = start(identify(config(root, tmp_path, "hardware.images=streamed")))
    assert (result.status, result.steps) == ("failed", 7)
    assert result.error == "images.npy cannot be read: Input/output error"


def images(tmp_path: Path, stored: bool) -> Images:
    """96 bytes in each half."""
    labels = torch.zeros(2, dtype=torch.int64)
    values: torch.Tensor | Stored = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    if stored:
        (tmp_path / "images").write_bytes(bytes(96))
        values = Stored(tmp_path / "images", 0, (2, 3, 4, 4))
    return Images(Samples(values, labels), Samples(values, labels), ["a", "b"])


@pytest.mark.parametrize(("free", "streamed"), [(384, False), (383, True), (None, False)])
def test_auto_goes_by_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int | None, streamed: bool
) -> None:
    monkeypatch.setattr(setting_up, "free_memory", lambda device: free)
    assert Placement.of("auto", images(tmp_path, stored=True), None, CPU).streamed == streamed


def test_what_is_in_memory_already_stays_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setting_up, "free_memory", lambda device: 10)
    for wanted in ("auto", "device"):
        assert not Placement.of(wanted, images(tmp_path, stored=False), None, CPU).streamed
    with pytest.raises(UserError, match=r"take 0.0 GiB; cpu has 0.0 GiB free: use .*=streamed"):
        Placement.of("device", images(tmp_path, stored=True), None, CPU)


_PEAKS = """
import os, sys
from pathlib import Path
import torch
from PIL import Image
from opt_runner.datasets import Augment, Batches, ImageFolder, pieces
from opt_runner.datasets.folder import decode

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

def walk(count):
    root = Path(sys.argv[1]) / str(count)
    for half in ("train", "test"):
        for label in "ab":
            (root / half / label).mkdir(parents=True)
        for i in range(count // 2):
            os.link(sys.argv[2], root / half / "ab"[i % 2] / f"{i}.png")
    images = ImageFolder(str(root), size=128, cache_dir=sys.argv[1]).load()
    batches = Batches(images.train.inputs[1:], images.train.targets[1:], 20, 0, Augment(),
                      streamed=True)
    for step in range(batches.steps_per_epoch):
        batches.batch(step)
    batches.close()
    total = sum(int(piece.sum()) for piece in pieces(images.test.inputs, 20))
    return peak(), total

torch.set_num_threads(1)
decode.FILES_A_TASK = 16  # that few images keep as many threads busy as many do
print(walk(200)[0], walk(2000)[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_ten_times_the_images_take_no_more_memory(tmp_path: Path) -> None:
    Image.effect_noise((16, 16), 99).convert("RGB").save(tmp_path / "one.png")
    command = [sys.executable, "-c", _PEAKS, str(tmp_path), str(tmp_path / "one.png")]
    # Freed memory goes back at once: the allocator's own keep would differ from thread to thread.
    allocator = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | allocator
    )
    assert done.returncode == 0, done.stderr
    few, many = map(int, done.stdout.split())
    assert many - few < 2000 * 128 * 128 * 3 / 8  # 12 of 98 MB
