"""Write a trained network so that it runs without this package."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opt_runner.errors import UserError, first_line
from opt_runner.files import write_whole
from opt_runner.records import weights
from opt_runner.run.build import dtype_of
from opt_runner.trained.network import Trained

# The suffix of each format's files.
FORMATS = {"safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2"}

_KEY = "opt_runner"  # of the network's inputs and outputs, in a file
# The largest relative difference of outputs that rounding explains, with weights in float32.
_ROUNDING = 1e-4


def export(trained: Trained, kind: str, path: Path) -> float | None:
    """Write the network to `path` whole, in one of `FORMATS`; an older file is replaced.

    safetensors: its state_dict. onnx, torch-export: a graph from inputs (N, ...), for any N, to
    outputs (N, ...), for example from images (N, C, H, W) to logits (N, classes), which
    `onnxruntime` and `torch.export.load` run. Every file holds the network's interface as JSON
    under the key `opt_runner`.

    The file is read back, and its outputs are compared with the network's. Returns the largest
    difference, relative to the largest output; None for safetensors and without onnxruntime. A
    file that differs by more than rounding is not written.
    Raises UserError if the network cannot be exported, and CannotWrite.
    """
    if kind == "safetensors":
        weights.write(path, trained.network, trained.interface)
        return None
    program = _program(trained)
    if kind == "onnx":
        content, run = _onnx(trained, program)
    else:
        content, run = _torch_export(trained, program)
    found: list[float] = []

    def compare(new: Path) -> None:
        if run is not None:
            found.append(_difference(trained, lambda x: run(new, x)))

    write_whole(path, content, compare)
    return found[0] if found else None


_Run = Callable[[Path, Tensor], Tensor]  # computes the outputs of the graph in a file


def _inputs(trained: Trained, count: int) -> Tensor:
    """Return random inputs of the network."""
    generator = torch.Generator().manual_seed(0)
    shape, below = (count, *trained.interface.shape), trained.interface.below
    if below is not None:
        return torch.randint(below, shape, generator=generator)
    return 2 * torch.rand(shape, generator=generator, dtype=dtype_of(trained.config)) - 1


def _program(trained: Trained) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    try:
        return torch.export.export(
            trained.network, (_inputs(trained, 2),), dynamic_shapes=({0: batch},)
        )
    except Exception as error:  # torch.export raises any exception for a user's network
        raise UserError(
            f"{trained.config.model.name} cannot be exported by torch.export "
            f"({first_line(error)}); --format safetensors writes its weights alone"
        ) from error


def _torch_export(trained: Trained, program: torch.export.ExportedProgram) -> tuple[bytes, _Run]:
    # Not into the file: PyTorch aborts the process if the disk is full.
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={_KEY: weights.text(trained.interface)})

    def run(path: Path, x: Tensor) -> Tensor:
        with path.open("rb") as file:
            return torch.export.load(file).module()(x)

    return content.getvalue(), run


def _onnx(trained: Trained, program: torch.export.ExportedProgram) -> tuple[bytes, _Run | None]:
    """Return the ONNX file and a function that runs it, None without onnxruntime."""
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("onnx needs two packages: pip install onnx onnxscript") from error
    takes = trained.interface
    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[takes.samples],
            output_names=[takes.outputs],
            verbose=False,
        )
    except Exception as error:  # torch.onnx raises any exception for a user's network
        raise UserError(
            f"{trained.config.model.name} cannot be written as ONNX ({first_line(error)}); "
            "--format torch-export may"
        ) from error
    assert made is not None
    made.model.metadata_props[_KEY] = weights.text(trained.interface)
    content = made.model_proto.SerializeToString()

    try:
        import onnxruntime
    except ImportError:
        return content, None

    def run(path: Path, x: Tensor) -> Tensor:
        session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run([takes.outputs], {takes.samples: x.numpy()})[0])

    return content, run


@torch.no_grad()
def _difference(trained: Trained, run: Callable[[Tensor], Tensor]) -> float:
    x = _inputs(trained, 3)  # not the batch size of the trace
    expected = trained.network(x)
    largest = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    difference = float((run(x) - expected).abs().max() / largest)
    if not difference < _ROUNDING:
        raise UserError(
            f"the written file computes other outputs than the network (relative difference "
            f"{difference:.1e}, {_ROUNDING:.0e} is allowed): no file was kept"
        )
    return difference
