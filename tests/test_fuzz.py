"""Whatever is thrown at the readers ends in what was asked for or in one clear error."""

import io
import json
import string
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from opt_runner.config.compose import compose, conf_dir
from opt_runner.datasets import Images, TorchvisionSet
from opt_runner.datasets.folder.decode import decode
from opt_runner.errors import UserError
from opt_runner.records.result import Result
from tests.datasets.idx_files import IDX, write_idx

KEYS = [
    "seed", "experiment_name", "output_dir", "rerun", "when_locked", "progress", "batch_size",
    "budget.steps", "budget.epochs", "optimizer.lr", "optimizer.momentum", "optimizer.nesterov",
    "optimizer.weight_decay", "schedule.warmup", "schedule.milestones", "schedule.factor",
    "loss.label_smoothing", "loss.softmax_floor", "augment.enabled", "augment.pad", "log.every",
    "evaluate.every", "checkpoint.every_seconds", "checkpoint.every_steps", "method", "model",
    "method.start", "method._target_", "model.widths", "model.bn_eps", "dataset", "hardware",
    "dataset._target_", "hardware.threads", "hardware.device", "hardware.precision", "tracking",
    "tracking.mode", "experiment", "nothing", "method.nothing",
]  # fmt: skip
VALUES = st.one_of(
    st.integers(-10, 10**12).map(str),
    st.floats().map(str),
    st.sampled_from(["null", "true", "gs", "sopt", "[1,2]", "[]", "{}", "{a:1}", "''", "${seed}",
                     "${nowhere}", "opt_runner.methods.Cayley", "math.pi", "os.getcwd", "???"]),
    st.text(string.printable, max_size=12),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    overrides=st.lists(
        st.tuples(st.sampled_from(["", "", "+", "++", "~"]), st.sampled_from(KEYS), VALUES),
        min_size=1, max_size=3,
    )
)  # fmt: skip
def test_any_override_is_a_config_or_a_clear_error(overrides: list[tuple[str, str, str]]) -> None:
    given_ = [f"{sign}{key}={value}" for sign, key, value in overrides]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            checked = compose("config", given_)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            said = str(error)
        else:
            said = str(checked)
    assert said.strip()


def encoded(format: str) -> bytes:
    pixels = np.random.default_rng(0).integers(256, size=(9, 7, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


FILES = {format: encoded(format) for format in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")}


@st.composite
def altered(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes changed, then cut short or with something behind."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))]) + draw(st.binary(max_size=8))


@pytest.mark.parametrize("format", FILES)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_any_image_file_is_an_image_or_named(format: str, data: st.DataObject) -> None:
    with tempfile.NamedTemporaryFile(suffix=f".{format.lower()}") as file:
        file.write(data.draw(altered(FILES[format])))
        file.flush()
        try:
            shape = decode(file.name, 8, 3).shape
            said = file.name
        except UserError as error:
            shape = (3, 8, 8)
            said = str(error)
    assert shape == (3, 8, 8)
    assert file.name in said
    assert len(said.splitlines()) == 1


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(IDX)), data=st.data())
def test_any_idx_file_is_read_or_named(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root) / "MNIST" / "raw"
        write_idx(raw)
        (raw / name).write_bytes(data.draw(altered((raw / name).read_bytes())))
        said = "MNIST"
        images: Images | None = None
        try:
            images = TorchvisionSet("MNIST", root, download=False).load()
        except UserError as error:
            said = str(error)
    assert "MNIST" in said
    assert images is None or images.train_images.dtype == torch.uint8


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(content=st.one_of(st.binary(max_size=40), JSON.map(lambda v: json.dumps(v).encode())))
def test_any_result_file_is_a_result_or_damaged(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            Result.read(path)
