"""The network on point clouds, and runs by the composed config."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from opt_runner.config.compose import from_arguments
from opt_runner.console.screen import Screen
from opt_runner.networks import PointNet
from opt_runner.opt import OPT
from opt_runner.run.execute import execute
from opt_runner.run.interrupt import StopRequest
from opt_runner.run.run import Run, identify
from opt_runner.trained import evaluate, export, read


def test_the_order_and_the_repetition_of_points_change_nothing() -> None:
    network = PointNet(3, 5).double().eval()
    x = torch.randn(4, 20, 3, dtype=torch.float64)
    found = network(x)
    assert found.shape == (4, 5)
    assert torch.allclose(network(x[:, torch.randperm(20)]), found, rtol=1e-12)
    assert torch.allclose(network(x.repeat(1, 2, 1)), found, rtol=1e-12)


def test_the_papers_size_and_the_layers_of_opt() -> None:
    with torch.device("meta"):
        network = PointNet(3, 40, widths=(64, 64, 64, 128, 1024), head_widths=(512, 256))
    # Weights of layers, two of each BatchNorm, and the classifier's bias.
    sizes = [3, 64, 64, 64, 128, 1024, 512, 256, 40]
    expected = sum(a * b for a, b in pairwise(sizes)) + 2 * sum(sizes[1:-1]) + 40
    assert sum(p.numel() for p in network.parameters()) == expected
    *covered, last = OPT(PointNet(3, 5), "cayley").summary().rows
    assert [row.d for row in covered] == [3, 64, 64, 128, 256, 128]
    assert {row.method for row in covered} == {"cayley"}
    assert (last.layer, last.method) == ("classifier", "plain")


def composed(folder: Path, *arguments: str) -> Run:
    return identify(
        from_arguments(
            "dataset=points",
            "dataset.points=16",
            "model=pointnet",
            "model.widths=[8,8]",
            "model.head_widths=[8]",
            "tracking=none",
            "hardware=cpu",
            "hardware.threads=1",
            "budget.steps=10",
            f"output_dir={folder}",
            *arguments,
        )
    )


@pytest.mark.parametrize("method", ["standard", "cayley", "frame", "ogd", "sopt"])
def test_a_run_and_a_streamed_run_are_equal_to_the_bit(method: str, tmp_path: Path) -> None:
    found = []
    for place in ("device", "streamed"):
        run = composed(tmp_path / place, f"method={method}", f"hardware.images={place}")
        result = execute(run, Screen("none"), in_sweep=False, stop=StopRequest())
        assert result is not None
        assert result.status == "finished"
        found.append(run.record.weights.read_bytes())
    assert found[0] == found[1]


def test_a_record_is_evaluated_and_exported(tmp_path: Path) -> None:
    run = composed(tmp_path, "method=cayley")
    result = execute(run, Screen("none"), in_sweep=False, stop=StopRequest())
    trained = read(run.record.directory)
    assert result is not None
    assert evaluate(trained, run.config).numbers["error"] == result.test_error
    difference = export(trained, "torch-export", tmp_path / "net.pt2")
    assert difference is not None
    assert difference < 1e-6
    pytest.importorskip("onnxruntime")
    difference = export(trained, "onnx", tmp_path / "net.onnx")
    assert difference is not None
    assert difference < 1e-5
