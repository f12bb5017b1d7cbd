"""Whatever is thrown at the readers ends in what was asked for or in one clear error.

OPT_FUZZ=10 tries ten times as many inputs, and prints their numbers.
"""

import io
import json
import os
import string
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from opt_runner.config.compose import compose, conf_dir, from_arguments
from opt_runner.console import screen
from opt_runner.datasets import ImageFolder, Images, Interface, TorchvisionSet
from opt_runner.datasets.folder.decode import decode
from opt_runner.errors import UserError
from opt_runner.files import expanded
from opt_runner.machine import available_cores, free_memory
from opt_runner.records import tuned, weights
from opt_runner.records.record import Record
from opt_runner.records.result import Result
from opt_runner.run.device import default_threads
from opt_runner.run.processes import joined
from tests.datasets.idx_files import IDX, write_idx
from tests.report.conftest import writer
from tests.report.test_hostile import whole_report
from tests.report.test_search import SEARCH
from tests.test_machine import tree

TIMES = int(os.environ.get("OPT_FUZZ", "1"))
COUNTS: Counter[str] = Counter()


def tries(count: int) -> settings:
    shared = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count * TIMES, deadline=None, suppress_health_check=shared)


def refused(error: BaseException) -> str:
    """Count an input that was refused, and return what was said."""
    COUNTS["refused"] += 1
    return str(error)


@pytest.fixture(autouse=True, scope="module")
def counts(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if TIMES > 1:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            refused_ = COUNTS.pop("refused", 0)
            print(f"\nfuzz: {COUNTS.total()} inputs ({dict(COUNTS)}), {refused_} refused in a line")


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


@tries(50)
@given(
    overrides=st.lists(
        st.tuples(st.sampled_from(["", "", "+", "++", "~"]), st.sampled_from(KEYS), VALUES),
        min_size=1, max_size=3,
    )
)  # fmt: skip
def test_any_override_is_a_config_or_a_clear_error(overrides: list[tuple[str, str, str]]) -> None:
    COUNTS["configs"] += 1
    given_ = [f"{sign}{key}={value}" for sign, key, value in overrides]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            checked = compose("config", given_)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            said = refused(error)
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
@tries(100)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_any_image_file_is_an_image_or_named(format: str, data: st.DataObject) -> None:
    COUNTS["images"] += 1
    with tempfile.NamedTemporaryFile(suffix=f".{format.lower()}") as file:
        file.write(data.draw(altered(FILES[format])))
        file.flush()
        try:
            shape = decode(file.name, 8, 3).shape
            said = file.name
        except UserError as error:
            shape = (3, 8, 8)
            said = refused(error)
    assert shape == (3, 8, 8)
    assert file.name in said
    assert len(said.splitlines()) == 1


@tries(60)
@given(name=st.sampled_from(sorted(IDX)), data=st.data())
def test_any_idx_file_is_read_or_named(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as root:
        COUNTS["IDX files"] += 1
        raw = Path(root) / "MNIST" / "raw"
        write_idx(raw)
        (raw / name).write_bytes(data.draw(altered((raw / name).read_bytes())))
        said = "MNIST"
        images: Images | None = None
        try:
            images = TorchvisionSet("MNIST", root, download=False).load()
        except UserError as error:
            said = refused(error)
    assert "MNIST" in said
    assert images is None or images.train.inputs.dtype == torch.uint8


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@tries(200)
@given(content=st.one_of(st.binary(max_size=40), JSON.map(lambda v: json.dumps(v).encode())))
def test_any_result_file_is_a_result_or_damaged(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        COUNTS["results"] += 1
        path = Path(folder) / "result.json"
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged") as caught:
            Result.read(path)
        refused(caught.value)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A record among others, beside a search and the settings of a fair comparison."""
    folder = tmp_path_factory.mktemp("records")
    write = writer(folder)
    write("standard", 0)
    SEARCH.write(folder)
    tuned.keep(folder, {"gs": ["a=1"]}, {"gs": ["b"]})
    return write("gs", 0)


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "metrics.jsonl", "command.txt",
                                  "search.json", "tuned.json"])  # fmt: skip
@tries(15)
@given(data=st.data())
def test_any_record_is_reported_or_named(record: Record, name: str, data: st.DataObject) -> None:
    COUNTS["records"] += 1
    folder = record.directory.parents[4]
    path = (folder if name in ("search.json", "tuned.json") else record.directory) / name
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(altered(whole)))
        faults, statuses = whole_report(folder)
    finally:
        path.write_bytes(whole)
    COUNTS["refused"] += bool(faults)
    assert len(faults) <= 1
    assert all(str(path) in fault for fault in faults)
    assert 1 <= len(statuses) <= 2


def line_of(asked: Callable[..., object], *arguments: object) -> str:
    """Return the line of a refusal, or nothing."""
    try:
        asked(*arguments)
    except UserError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return str(error)
    return ""


TAKES = Interface("images", (1, 4, 4), "logits", {"num_classes": 2}, classes=["a", "b"])


@tries(150)
@given(data=st.data())
def test_any_weights_are_the_written_ones_or_damaged(data: st.DataObject) -> None:
    COUNTS["weights"] += 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / weights.NAME
        network = torch.nn.Linear(3, 2)
        digest = weights.write(path, network, TAKES)
        result = Result("a", "gs", "mlp", "digits", 0, "finished", weights=digest)
        result.write(path.with_name("result.json"))
        whole = path.read_bytes()
        path.write_bytes(data.draw(altered(whole)))
        readers = (weights.check, weights.read_interface, lambda path: weights.load(path, network))
        said = [line_of(read, path) for read in readers]
        assert bool(said[0]) == (path.read_bytes() != whole)
        COUNTS["refused"] += bool(said[0])
        assert all(str(path) in line for line in said if line)


NAMES = st.binary(min_size=1, max_size=40).map(
    lambda raw: os.fsdecode(raw.replace(b"/", b"_").replace(b"\0", b"_"))
) | st.sampled_from(["[/INST]", "[red]", ":smile:", "=cmd()", "\u202e", "a\nb", "-rf", "é", "é"])


@tries(60)
@given(names=st.lists(NAMES, min_size=1, max_size=3, unique=True), said=NAMES)
def test_any_names_are_classes_or_named(names: list[str], said: str) -> None:
    COUNTS["names"] += 1
    with tempfile.TemporaryDirectory() as folder:
        try:
            for half in ("train", "test"):
                for name in names:
                    (Path(folder) / "data" / half / name).mkdir(parents=True)
                    (Path(folder) / "data" / half / name / "0.png").write_bytes(FILES["PNG"])
        except OSError:  # "." and names that are there already
            return
        try:
            images = ImageFolder(f"{folder}/data", cache_dir=f"{folder}/cache").load()
        except UserError as error:
            found, shown = names, refused(error)
        else:
            found, shown = images.classes, repr(images.classes)
            interface = images.interface
            path = Path(folder) / "net"
            weights.write(path, torch.nn.Linear(1, 1), interface)
            assert weights.read_interface(path) == interface
        assert len(found) <= len(names)
        console = screen.new_console()
        with console.capture() as capture:
            for text in (*found, shown, said):
                console.print(text)
        assert all(c.isprintable() or c in "\n\t" for c in capture.get())
        result = Result(said, said, said, said, 0, error=said, label=said)
        result.write(Path(folder) / "result.json")
        assert Result.read(Path(folder) / "result.json") == result


HARDWARE = from_arguments("hardware=cpu").hardware
VARIABLES = {
    "COLUMNS": None, "LINES": None, "TERM": None, "FORCE_COLOR": None, "NO_COLOR": None,
    "OMP_NUM_THREADS": None, "HOME": None, "XDG_CACHE_HOME": None, "RANK": None,
    "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip
SETTINGS = st.one_of(
    st.sampled_from(["", "0", "1", "-1", "2,4", "dumb", "xterm", "/nowhere", "~", "²", "1e3"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
)


@tries(150)
@given(
    changed=st.dictionaries(st.sampled_from(sorted(VARIABLES)), SETTINGS, max_size=4),
    torchrun=st.booleans(),
)
def test_any_environment_is_used_or_named(
    changed: dict[str, str], torchrun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    COUNTS["environments"] += 1
    # Several processes would wait for each other.
    changed = {key: "1" if key == "WORLD_SIZE" else value for key, value in changed.items()}
    with monkeypatch.context() as patched:
        for name, value in VARIABLES.items():
            patched.delenv(name, raising=False)
            if torchrun and value is not None:
                patched.setenv(name, value)
        for name, value in changed.items():
            patched.setenv(name, value)
        console = screen.new_console()
        assert console.width > 0
        with console.capture():
            console.print("é [/INST]")
        assert default_threads() >= 1
        COUNTS["refused"] += any([
            line_of(joined(HARDWARE).__enter__),
            line_of(ImageFolder, "a"),
            line_of(expanded, "~/a"),
        ])  # fmt: skip


NUMBERS = st.integers(0, 2**63).map(str)


@tries(100)
@given(
    own=st.sampled_from(["0::/\n", "0::/a/b\n", "4:cpu:/a\n5:memory:/a\n0::/\n", "", "::\n"]),
    limits=st.dictionaries(
        st.sampled_from(
            [f"{group}{file}" for group in ("", "a/", "a/b/", "cpu/", "cpu/a/", "memory/a/")
             for file in ("memory.max", "memory.limit_in_bytes", "cpu.cfs_quota_us")]
        ),
        NUMBERS | st.sampled_from(["max", "-1"]),
    ),
    used=st.dictionaries(
        st.sampled_from(
            [f"{group}{file}" for group in ("", "a/", "memory/a/")
             for file in ("memory.current", "memory.usage_in_bytes")]
        ),
        NUMBERS,
    ),
    quota=st.tuples(st.integers(1, 10**9).map(str) | st.just("max"), st.integers(1, 10**6)),
)  # fmt: skip
def test_any_machine_has_a_core_and_no_negative_memory(
    own: str, limits: dict[str, str], used: dict[str, str], quota: tuple[str, int]
) -> None:
    COUNTS["machines"] += 1
    with tempfile.TemporaryDirectory() as folder:
        period = {f"{group}cpu.cfs_period_us": "100000" for group in ("cpu/", "cpu/a/")}
        root = tree(
            Path(folder), own, {**limits, **used, **period, "cpu.max": f"{quota[0]} {quota[1]}"}
        )
        assert available_cores(root) >= 1
        memory = free_memory(torch.device("cpu"), root)
        assert memory is not None
        assert memory >= 0
