"""Loading of a network's weights."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from opt_runner.errors import UserError, first_line, listed


def load_weights(
    network: nn.Module, given: Mapping[str, Tensor], source: object, left_out: Sequence[str] = ()
) -> None:
    """Load weights into the network.

    source: a file or a name, for messages. left_out: patterns of names that stay as they are.
    Raises UserError with all names that do not fit.
    """
    given = {name: t for name, t in given.items() if not _matches(name, left_out)}
    own = {name: t for name, t in network.state_dict().items() if not _matches(name, left_out)}
    faults = {
        "only in the network": [name for name in own if name not in given],
        "only in the file": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {tuple(t.shape)} for {tuple(own[name].shape)}"
            for name, t in given.items()
            if name in own and t.shape != own[name].shape
        ],
    }
    if any(faults.values()):
        lines = [f"{what}: {listed(names)}" for what, names in faults.items() if names]
        raise UserError(
            f"model.weights={source} does not fit the network; model.weights_except=[PATTERN,...] "
            "leaves names out\n" + "\n".join(lines)
        )
    network.load_state_dict(given, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights of a file, on the CPU.

    The file is safetensors, or a state_dict that torch.save wrote, alone or under `state_dict` or
    `model`, also of a DDP or compiled module. Raises UserError if it cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"model.weights={path} cannot be read: {error.strerror}") from error
    except SafetensorError as error:
        raise UserError(f"model.weights={path} is damaged: {error}") from error
    except Exception as error:  # of a damaged file torch.load raises anything
        raise UserError(
            f"model.weights={path} is no file of tensors alone ({first_line(error)}): save the "
            "state_dict"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(t, Tensor) for t in content.values()):
        raise UserError(f"model.weights={path} holds no state_dict: names and their tensors")
    weights = dict(content)
    for prefix in ("module.", "_orig_mod."):
        consume_prefix_in_state_dict_if_present(weights, prefix)
    return weights


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
