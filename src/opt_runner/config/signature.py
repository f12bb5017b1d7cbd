"""The signature of a run: a hash of everything that can change its result, and of nothing else."""

import hashlib
import json
import stat
from functools import cache
from pathlib import Path
from typing import Any

from opt_runner.config.schema import Config, Role, of_roles
from opt_runner.errors import UserError

# Part of every signature. Raise it when a release changes what a config computes, so that the
# records of the older release are not taken for the newer one's.
RESULTS_VERSION = 2

_OURS = "opt_runner."


def signature(config: Config, data: str, device: str) -> str:
    """Return twelve hexadecimal digits.

    data: the dataset's fingerprint, which stands for its options (paths among them) but for what
    of its training images is trained on.
    device: the kind of device, once `auto` is resolved.
    Of a file of weights its content counts. Raises UserError where it cannot be read.
    """
    # Without defaults: a key that a later release adds leaves the signatures of older runs alone.
    content = config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    content = of_roles(content, Role.TASK, Role.METHOD, Role.SEED)
    for room in ("method", "model", "optimizer", "schedule"):
        content[room] = _component(content[room])
    if config.model.weights:
        content["model"]["weights"] = weights_fingerprint(config.model.weights)
    content["dataset"] = data
    content.setdefault("hardware", {})
    content |= config.dataset.trained_on
    content["hardware"]["device"] = device
    content["results_version"] = RESULTS_VERSION
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def weights_fingerprint(path: Path) -> str:
    """Return a hash of a file's content. Raises UserError."""
    try:
        changed = path.stat()
    except OSError as error:
        raise UserError(f"model.weights={path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(changed.st_mode):  # a pipe or a device may never end
        raise UserError(f"model.weights={path} is no file")
    return _digest(path, changed.st_mtime_ns, changed.st_size)


@cache
def _digest(path: Path, *changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _component(content: dict[str, Any]) -> dict[str, Any]:
    """Return the component without the place of a class of ours in the package.

    A component of ours is known by the name of its class and its options, a user's by the whole
    `_target_`.
    """
    target: str = content["_target_"]
    if not target.startswith(_OURS):
        return content
    room, name = target.removeprefix(_OURS).split(".")[0], target.rpartition(".")[2]
    return {**content, "_target_": f"{_OURS}{room}.{name}"}
