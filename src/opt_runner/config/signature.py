"""The signature of a run: a hash of everything that can change its result, and of nothing else."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from opt_runner.config.schema import Config, Role, of_roles
from opt_runner.errors import UserError

# Part of every signature. Raise it when a release changes what a config computes, so that the
# records of the older release are not taken for the newer one's.
RESULTS_VERSION = 2

_OURS = "opt_runner."

# Options of methods that are younger than their records. At these values a run has the signature
# that it had before there were such options.
_SINCE = {"train_w": False, "neurons": "drawn"}


def signature(config: Config, data: str, device: str) -> str:
    """Twelve hexadecimal digits.

    data: the dataset's fingerprint, which stands for its options (paths among them) but for what
    of its training images is trained on.
    device: the kind of device, once `auto` is resolved.
    Of a file of weights its content counts. Raises UserError where it cannot be read.
    """
    content = of_roles(config.content, Role.TASK, Role.METHOD, Role.SEED)
    for room in ("method", "model"):
        content[room] = _component(content[room])
    content["method"] = without_later_options(content["method"])
    if config.model.weights:
        content["model"]["weights"] = weights_fingerprint(config.model.weights)
    content["dataset"] = data
    content |= config.dataset.trained_on
    content["hardware"]["device"] = device
    content["results_version"] = RESULTS_VERSION
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def weights_fingerprint(path: Path) -> str:
    """Of a file's content. Raises UserError."""
    try:
        changed = path.stat()
    except OSError as error:
        raise UserError(f"model.weights={path} cannot be read: {error.strerror}") from error
    return _digest(path, changed.st_mtime_ns, changed.st_size)


@cache
def _digest(path: Path, *changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _component(content: dict[str, Any]) -> dict[str, Any]:
    """A component of ours is known by the name of its class and its options, wherever the class
    stands in the package; a user's by the whole `_target_`."""
    target: str = content["_target_"]
    if not target.startswith(_OURS):
        return content
    room, name = target.removeprefix(_OURS).split(".")[0], target.rpartition(".")[2]
    return {**content, "_target_": f"{_OURS}{room}.{name}"}


def without_later_options(method: dict[str, Any]) -> dict[str, Any]:
    """A method's options but those that records of former releases lack, at their old meaning."""
    return {
        key: value for key, value in method.items() if key not in _SINCE or value != _SINCE[key]
    }
