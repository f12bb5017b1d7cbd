"""The signature of a run: a hash of everything that can change its result."""

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

from opt_runner.config.schema import Config, Role, of_roles
from opt_runner.errors import UserError
from opt_runner.files import digest, readable

# Part of every signature. Raise it if a release changes the results of a config: then records of
# older releases are not used.
RESULTS_VERSION = 2

_OURS = "opt_runner."


def signature(config: Config, data: str, device: str) -> str:
    """Return the signature, twelve hexadecimal digits.

    data: the dataset's fingerprint. It replaces the dataset's options, as paths; the choice of
    training samples is hashed in addition.
    device: the kind of device, never `auto`.
    A file of weights is hashed by its content. Raises UserError if it cannot be read, or weights
    with a name be found.
    """
    # Without defaults: a key that a later release adds does not change older signatures.
    content = config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    content = of_roles(content, Role.TABLE, Role.METHOD, Role.SEED)
    for room in ("method", "model", "optimizer", "schedule"):
        content[room] = _component(content[room])
    if name := config.model.published:
        from opt_runner.networks.published import Published  # imports torch, which is slow

        published = Published.of(config.model.options["arch"], name)
        published.fetch()
        content["model"]["weights"] = published.file.name  # with the first digits of its SHA-256
    elif config.model.weights:
        content["model"]["weights"] = weights_fingerprint(config.model.weights)
    content["dataset"] = data
    content.setdefault("hardware", {})
    content |= config.dataset.beside_fingerprint
    content["hardware"]["device"] = device
    content["results_version"] = RESULTS_VERSION
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def weights_fingerprint(path: Path) -> str:
    """Return a hash of a file's content. Raises UserError if it cannot be read."""
    with readable(f"model.weights={path}"):
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
        raise UserError(f"model.weights={path} is not a regular file")
    return digest(path)[:32]


def _component(content: dict[str, Any]) -> dict[str, Any]:
    """Return the component without the module of a class of the package.

    So classes of the package may move. A user's component keeps its whole `_target_`.
    """
    target: str = content["_target_"]
    if not target.startswith(_OURS):
        return content
    room, name = target.removeprefix(_OURS).split(".")[0], target.rpartition(".")[2]
    return {**content, "_target_": f"{_OURS}{room}.{name}"}
