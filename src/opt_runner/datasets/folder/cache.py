"""Decoded images on disk: one file a key, whole or not at all, and believed only if it checks."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import torch

from opt_runner.datasets.images import Images
from opt_runner.files import CannotWrite, write_whole

log = logging.getLogger(__name__)

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


def default_folder() -> Path:
    """$XDG_CACHE_HOME/opt-runner, or ~/.cache/opt-runner."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "opt-runner"


def read(folder: Path, key: str) -> Images | None:
    """The images that were written under `key`, or None: not there, damaged, or of another key."""
    path = _path(folder, key)
    if not path.is_file():
        return None
    try:
        # Mapped, so that jobs side by side share the memory.
        content = torch.load(path, weights_only=True, mmap=True)
        checksum = content.pop("checksum")
        if content["key"] == key and checksum == _checksum(content):
            return Images(classes=content["classes"], **{name: content[name] for name in TENSORS})
    except Exception as error:  # of a damaged file torch.load raises anything
        log.debug("%s: %s", path, error)
    log.warning("%s is damaged: decoding the images again", path)
    return None


def write(folder: Path, key: str, images: Images) -> None:
    """Write `images` under `key`; where that cannot be done, say so in the log."""
    content: dict[str, Any] = {"key": key, "classes": images.classes}
    content |= {name: getattr(images, name) for name in TENSORS}
    content["checksum"] = _checksum(content)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(_path(folder, key), lambda file: torch.save(content, file))
    # torch.save makes a full disk a RuntimeError.
    except (CannotWrite, OSError, RuntimeError) as error:
        log.warning("decoded images are not cached, each run decodes them anew: %s", error)


def _path(folder: Path, key: str) -> Path:
    return folder / f"images-{key}.pt"


def _checksum(content: dict[str, Any]) -> str:
    """torch.load verifies nothing of a tensor's values."""
    digest = hashlib.sha256(repr((content["key"], content["classes"])).encode())
    for name in TENSORS:
        digest.update(repr(tuple(content[name].shape)).encode())
        digest.update(content[name].numpy())
    return digest.hexdigest()
