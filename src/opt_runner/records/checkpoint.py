"""checkpoint.pt: everything that the next steps of a run depend on.

Data order and augmentation depend on the seed and the step only, and the learning rate on the step:
they need no state. A run keeps two checkpoints while it trains, because the newest may be damaged
later. A settled run has none: its network is in weights.safetensors.
"""

import contextlib
import errno
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
from torch.optim import Optimizer

from opt_runner.errors import UserError, first_line
from opt_runner.files import set_aside, write_whole
from opt_runner.opt import OPT
from opt_runner.records.record import Record

# The version of the content. A file of another version is set aside, and the run starts again.
_FORM = 4


class Damaged(Exception):
    """A checkpoint that cannot be read, or was altered."""


def save(
    record: Record, signature: str, opt: OPT, optimizer: Optimizer, progress: dict[str, Any]
) -> None:
    """Write checkpoint.pt whole; the one before stays as checkpoint.previous.pt.

    It is read back before it takes its name. `progress`: tensors and plain values.
    Raises CannotWrite.
    """
    state = {
        "form": _FORM,
        "signature": signature,
        **state_of(opt, optimizer),
        "progress": progress,
        "metrics_size": record.metrics_size(),
    }

    def write(file: IO[bytes]) -> None:
        faults: list[OSError] = []

        def put(content: bytes) -> int:
            try:
                return file.write(content)
            except OSError as error:
                faults.append(error)
                raise

        try:
            torch.save(state, SimpleNamespace(write=put, flush=file.flush))
        except RuntimeError as error:  # PyTorch raises this in the place of the file's own error
            raise (faults or [OSError(None, first_line(error))])[0] from error

    def keep_previous(new: Path) -> None:
        try:
            _check(new)
        except Damaged as error:
            raise OSError(None, f"what was written reads back damaged ({error})") from error
        with contextlib.suppress(FileNotFoundError):
            os.replace(record.checkpoint, record.previous_checkpoint)

    record.check_held()
    if record.metrics.exists():  # the rows that the checkpoint counts must be on the disk before it
        with record.metrics.open("rb") as file:
            os.fsync(file.fileno())
    write_whole(record.checkpoint, write, keep_previous)


def load(
    record: Record, signature: str, opt: OPT, optimizer: Optimizer, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Restore the newest undamaged state, and return its progress or None.

    Damaged files are set aside and reported by `say`. Raises UserError for another run's
    checkpoint.
    """
    for path in record.checkpoints():
        try:
            state = _read(path)
        except Damaged as error:
            say(f"{path} is damaged ({error}): set aside as {set_aside(path).name}")
            continue
        if state.get("signature") != signature:
            raise UserError(
                f"{path} is the checkpoint of another run ({state.get('signature')}, here "
                f"{signature}): put it back where it belongs, or start over with rerun=true"
            )
        why, word = None, "former"
        if state.get("form") != _FORM:
            why = "its checkpoint is of another release of opt-runner and cannot be resumed"
        elif not record.keep_metrics(state["metrics_size"]):
            why, word = f"{record.metrics} does not hold the rows up to the checkpoint", "damaged"
        if why:
            say(f"{why}: the run starts over, the old files are set aside")
            for old in (record.metrics, *record.checkpoints()):
                if old.exists():
                    set_aside(old, word)
            return None
        try:
            restore(state, opt, optimizer)
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} does not fit the network, whose code may have changed since "
                f"({first_line(error)}): rerun=true starts over and keeps the old record"
            ) from error
        progress: dict[str, Any] = state["progress"]
        return progress
    return None


def state_of(opt: OPT, optimizer: Optimizer) -> dict[str, Any]:
    """Return everything that the next step depends on, except the number of steps."""
    device = next(opt.parameters()).device
    return {
        "opt": opt.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore(state: dict[str, Any], opt: OPT, optimizer: Optimizer) -> None:
    """Load the state that `state_of` returned."""
    opt.load_state_dict(state["opt"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"] is not None:
        torch.cuda.set_rng_state(state["cuda_rng"], next(opt.parameters()).device)


def _read(path: Path) -> dict[str, Any]:
    _check(path)
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises any exception for a damaged file
        if _is_of_the_disk(error):
            raise
        raise Damaged(type(error).__name__) from error
    if not isinstance(state, dict):
        raise Damaged(f"it holds a {type(state).__name__}")
    return state


def _check(path: Path) -> None:
    """Raise Damaged if a byte of the state was altered, which torch.load does not check."""
    try:
        with zipfile.ZipFile(path) as archive:
            altered = archive.testzip()
    except Exception as error:  # zipfile raises any exception for a damaged file
        if _is_of_the_disk(error):
            raise
        raise Damaged(str(error) or type(error).__name__) from error
    if altered:
        raise Damaged(f"{altered} has been altered")


def _is_of_the_disk(error: Exception) -> bool:
    """Return True if the file cannot be read now, but may be whole.

    EINVAL comes from a damaged file with a position before its beginning.
    """
    return isinstance(error, OSError) and error.errno != errno.EINVAL
