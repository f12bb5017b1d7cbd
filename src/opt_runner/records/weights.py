"""weights.safetensors: the trained network, merged, as a state_dict, and what it takes and gives.

The file is enough to build the network again: no data is needed.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch import contiguous_format as contiguous

from opt_runner.datasets import Images
from opt_runner.errors import UserError
from opt_runner.files import write_whole

# One key alone: safetensors writes several in any order, and the same network is the same file.
_KEY = "opt_runner"


@dataclass(frozen=True)
class Interface:
    """What a network takes and gives.

    channels, size: of an image; size is (height, width). classes: names, in the order of the
    outputs. The network gets pixels x in 0 to 255 as (x - 127.5) / 128.
    """

    channels: int
    size: tuple[int, int]
    classes: list[str]

    @classmethod
    def of(cls, images: Images) -> Self:
        return cls(images.channels, images.size, images.classes)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def text(self) -> str:
        return json.dumps(asdict(self) | {"pixels": "(x - 127.5) / 128"})


def write(path: Path, network: nn.Module, interface: Interface) -> str:
    """Write the network's state_dict whole, and return the SHA-256 of the file.

    Tied weights stand under each of their names. A value that is no tensor, as a module's
    `get_extra_state` may give, is left out. Raises CannotWrite.
    """
    tensors = {
        name: value.detach().cpu().clone(memory_format=contiguous)
        for name, value in network.state_dict().items()
        if isinstance(value, Tensor)
    }
    content = save(tensors, {_KEY: interface.text})

    def put(file: IO[bytes]) -> None:
        file.write(content)

    write_whole(path, put)
    return hashlib.sha256(content).hexdigest()


def check(path: Path, digest: str) -> None:
    """Raise UserError where the file at `path` is not what `write` wrote, by its SHA-256."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if found != digest:
        raise UserError(
            f"{path} is damaged: its SHA-256 is not that of result.json; rerun=true makes it anew"
        )


def read_interface(path: Path) -> Interface:
    """Return the interface that the file of weights names.

    Raises UserError if the file is missing, damaged or not written by this package.
    """
    try:
        with safe_open(path, "pt") as file:
            content = json.loads((file.metadata() or {})[_KEY])
        return Interface(content["channels"], tuple(content["size"]), content["classes"])
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: it was removed, or the run is of an earlier release; rerun=true "
            "makes it"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def load(path: Path, network: nn.Module) -> None:
    """Give the network, on the CPU, its weights. Raises UserError where they do not fit."""
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
