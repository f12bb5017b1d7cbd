"""weights.safetensors: the state_dict of the merged network, its inputs and outputs.

The network can be built from this file and the config, without the data.
"""

import hashlib
import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch import contiguous_format as contiguous

from opt_runner.datasets import Interface
from opt_runner.errors import UserError
from opt_runner.files import write_whole
from opt_runner.records.reading import open_regular, parse_json
from opt_runner.records.result import Result

# One key only: safetensors writes several in any order, and equal networks must be equal files.
_KEY = "opt_runner"
_TENSOR = "tensor"
_MOST = 2**20  # of a size that a network is built for
NAME = "weights.safetensors"


def write(path: Path, network: nn.Module, interface: Interface) -> str:
    """Write the network's state_dict whole, and return the SHA-256 of the file.

    Tied weights have an entry for each of their names. A value that is not a tensor, for example
    from a module's `get_extra_state`, is left out. Raises CannotWrite.
    """
    tensors = {
        name: value.detach().cpu().clone(memory_format=contiguous)
        for name, value in network.state_dict().items()
        if isinstance(value, Tensor)
    }
    content = save(tensors, {_KEY: text(interface)})
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def check(path: Path) -> None:
    """Raise UserError if weights of a record are not as `write` wrote them, by their SHA-256.

    The result.json beside them tells. Other files are not looked at.
    """
    result = Result.read(path.with_name("result.json")) if path.name == NAME else None
    if result is None or result.weights is None:
        return
    try:
        with open_regular(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return  # whoever reads it says so
    if found != result.weights:
        raise UserError(
            f"{path} is damaged: its SHA-256 is not that of result.json; rerun=true makes it again"
        )


def text(interface: Interface) -> str:
    """Return the interface as JSON; of a tensor it holds the type and the shape."""
    return json.dumps(asdict(replace(interface, gives=_described(interface.gives))))


def check_gives(gives: dict[str, Any]) -> None:
    """Raise UserError if a dataset gives what a record cannot hold."""
    for key, value in gives.items():
        try:
            _filled(json.loads(json.dumps(_described(value))), sys.maxsize)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"dataset: it gives {key}={str(value)[:60]!r}, which a record cannot hold: give "
                f"tensors, texts, numbers (integers up to {_MOST:,}), lists or dicts of them"
            ) from error


def _described(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _described(inner) for key, inner in value.items()}
    if isinstance(value, Tensor):
        return {_TENSOR: str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
    return value


def _filled(value: Any, most: int) -> Any:
    """Return what `_described` was given, with zeros for tensors, which the weights hold.

    most: the number of values that a tensor can have. Raises ValueError for anything else.
    """
    if isinstance(value, list):
        return tuple(_filled(inner, most) for inner in value)
    if isinstance(value, dict) and _TENSOR not in value:
        return {key: _filled(inner, most) for key, inner in value.items()}
    if isinstance(value, dict):
        dtype, shape = getattr(torch, str(value[_TENSOR]), None), value.get("shape")
        if (
            not isinstance(dtype, torch.dtype)
            or not isinstance(shape, list)
            or not all(type(n) is int and n >= 0 for n in shape)
            or math.prod(shape) > most
        ):
            raise ValueError(f"no tensor that fits into the file: {value}")
        return torch.zeros(shape, dtype=dtype)
    if value is None or isinstance(value, str | bool | float):
        return value
    if isinstance(value, int) and abs(value) <= _MOST:
        return value
    raise ValueError(f"{value!r} is no text, and no integer up to {_MOST:,}")


def read_interface(path: Path) -> Interface:
    """Return the interface that the file of weights names.

    Raises UserError if the file is missing, damaged or not written by this package.
    """
    try:
        open_regular(path).close()
        with safe_open(path, "pt") as file:
            content = parse_json((file.metadata() or {})[_KEY])
        found = TypeAdapter(Interface).validate_python(content)
        return replace(found, gives=_filled(found.gives, path.stat().st_size))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: it was removed, or the run is of an earlier release; rerun=true "
            "makes it"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path} is damaged: its {key}: {fault['msg']}") from error
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def load(path: Path, network: nn.Module) -> None:
    """Load the weights into the network, on the CPU. Raises UserError if they do not fit."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    own = {name for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    if odd := own ^ tensors.keys():
        raise _does_not_fit(path, f"{min(odd)} is in one of them alone")
    try:
        network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # of another shape
        raise _does_not_fit(path, str(error).splitlines()[-1].strip()) from error


def _does_not_fit(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} does not fit the network, whose code may have changed since: {reason}"
    )
