"""What is exported computes what the network does, without this package."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from opt_runner.cli.export import main
from opt_runner.errors import UserError
from opt_runner.files import CannotWrite
from opt_runner.run.run import Run
from opt_runner.trained import export, read


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 1, 8, 8)


def test_safetensors(record: Path, tmp_path: Path) -> None:
    trained = read(record)
    assert export(trained, "safetensors", tmp_path / "net.safetensors") is None
    found = load_file(tmp_path / "net.safetensors")
    expected = trained.network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    again = tmp_path / "again.safetensors"
    export(trained, "safetensors", again)
    assert again.read_bytes() == record.joinpath("weights.safetensors").read_bytes()


def test_the_command_and_what_it_writes_without_this_package(
    record: Path,
    tmp_path: Path,
    images: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    main([str(record), "--format", "torch-export"])
    said = capsys.readouterr().out
    (path,) = tmp_path.iterdir()
    assert path.name == f"cnn6-ogd-{record.name}.pt2"
    assert f"written: {path.name}" in said
    assert "takes images (N, 1, 8, 8)" in said
    assert "read back and compared" in said
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys; sys.modules['opt_runner'] = None\n"
        "import torch\n"
        f"about = {{'opt_runner': ''}}; net = torch.export.load({str(path)!r}, extra_files=about)\n"
        "print(about['opt_runner'])\n"
        f"torch.save(net.module()(torch.load('images.pt')), 'logits.pt')\n"
    )
    alone = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["classes"] == [str(digit) for digit in range(10)]
    expected = read(record).network(images)
    found = torch.load(tmp_path / "logits.pt")
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_onnx(record: Path, tmp_path: Path, images: torch.Tensor) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    trained, path = read(record), tmp_path / "net.onnx"
    difference = export(trained, "onnx", path)
    assert difference is not None
    assert difference < 1e-5
    assert [found.name for found in tmp_path.iterdir()] == ["net.onnx"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images.numpy()})
    expected = trained.network(images).detach()
    assert torch.allclose(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)
    about = json.loads(session.get_modelmeta().custom_metadata_map["opt_runner"])
    assert about["shape"] == [1, 8, 8]


def test_onnx_without_onnxscript(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match="pip install onnx onnxscript"):
        export(read(record), "onnx", tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_onnx_without_onnxruntime_is_not_compared(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export(read(record), "onnx", tmp_path / "net.onnx") is None
    assert (tmp_path / "net.onnx").exists()


def test_a_network_of_float64(runs: Callable[..., Run], tmp_path: Path) -> None:
    run = runs("method=gs", "model=mlp", "model.widths=[8]", "hardware.precision=float64")
    trained = read(run.record.directory)
    assert all(p.dtype == torch.float64 for p in trained.network.parameters())
    difference = export(trained, "torch-export", tmp_path / "net.pt2")
    assert difference is not None
    assert difference < 1e-12


def test_a_file_that_computes_something_else_is_not_kept(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = torch.export.load

    class Wrong:
        def __init__(self, file) -> None:
            self.program = load(file)

        def module(self):
            network = self.program.module()
            return lambda x: network(x) * 1.01

    monkeypatch.setattr(torch.export, "load", Wrong)
    with pytest.raises(UserError, match="computes other outputs"):
        export(read(record), "torch-export", tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["safetensors", "onnx", "torch-export"])
def test_a_full_disk_is_one_line(record: Path, tmp_path: Path, kind: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    trained, path = read(record), tmp_path / "net"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(CannotWrite, match="net: File too large; make room"):
            export(trained, kind, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_network_that_cannot_be_traced(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = read(record)
    forward = trained.network.forward

    def depends_on_values(x: torch.Tensor) -> torch.Tensor:
        return forward(x) if x.sum().item() > 0 else forward(-x)

    monkeypatch.setattr(trained.network, "forward", depends_on_values)
    with pytest.raises(UserError, match=r"cannot be exported by torch\.export") as caught:
        export(trained, "torch-export", tmp_path / "net.pt2")
    assert len(str(caught.value).splitlines()) == 1


def test_mistakes_end_the_command_in_one_line(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "missing" / "net.safetensors"
    for arguments, says in (
        ([str(tmp_path)], f"{tmp_path} is no record of opt-run"),
        ([str(record), "--out", str(nowhere)], f"cannot write {nowhere}: No such file"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"opt-export: {says}")
