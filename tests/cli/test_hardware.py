"""Device, precision and layout as a user sets them."""

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import TINY, Run, results

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(
    "options",
    [
        ["hardware.precision=bfloat16"],
        ["hardware.channels_last=false"],
        ["hardware.threads=2"],
        pytest.param(["hardware=cuda"], marks=needs_cuda),
        pytest.param(["hardware=cuda", "hardware.precision=bfloat16"], marks=needs_cuda),
    ],
)
def test_trains(opt_run: Run, tmp_path, options: list[str]) -> None:
    run = ["method=gs", "model=cnn6", "model.widths=[8,8]", "model.fc_width=8", "budget.steps=60"]
    done = opt_run(*run, "tracking=none", "hardware.threads=1", *options)
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path)
    assert result["orthogonality_error"] < 1e-5, "rotations are float32 in any precision"
    assert result["train_loss"] < 2.3


def test_float64_is_float64_throughout(opt_run: Run, tmp_path) -> None:
    done = opt_run("method=gs", *TINY, "tracking=none", "hardware.precision=float64")
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path)
    assert result["orthogonality_error"] < 1e-13
    (weights,) = tmp_path.glob("outputs/**/weights.safetensors")
    dtypes = {tensor.dtype for tensor in load_file(weights).values()}
    assert dtypes - {torch.int64} == {torch.float64}


@pytest.mark.slow
def test_compile(opt_run: Run, tmp_path) -> None:
    done = opt_run("method=cayley", *TINY, "tracking=none", "hardware.compile=true")
    assert done.returncode == 0, done.stderr
    assert results(tmp_path)[0]["status"] == "finished"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(opt_run: Run) -> None:
    done = opt_run("hardware=cuda", *TINY)
    assert done.returncode == 2
    assert "hardware.device=cuda does not exist: 0 CUDA devices were found" in done.stderr
