"""Where a cell goes on from after a cut: everything that the next steps depend on.

Data order and augmentation are functions of the seed and the step, the learning rate of the step:
they need no state.
"""

from typing import Any

import torch
from torch.optim import Optimizer

from opt_runner.errors import UserError
from opt_runner.opt import OPT
from opt_runner.records import Record, write_whole


def save(record: Record, opt: OPT, optimizer: Optimizer, progress: dict[str, Any]) -> None:
    """Write checkpoint.pt whole. `progress`: tensors and plain values."""
    state = {
        "opt": opt.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": progress,
        "metrics_size": record.metrics_size(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    write_whole(record.checkpoint, lambda file: torch.save(state, file))


def load(record: Record, opt: OPT, optimizer: Optimizer) -> dict[str, Any] | None:
    """Restore the state of checkpoint.pt and return its progress; None where there is none."""
    if not record.checkpoint.exists():
        return None
    try:
        state = torch.load(record.checkpoint, map_location="cpu", weights_only=True)
        opt.load_state_dict(state["opt"])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:
        raise UserError(
            f"{record.checkpoint} cannot be read ({type(error).__name__}); "
            "rerun=true starts the cell over and keeps the old files"
        ) from error
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"]:
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    record.truncate_metrics(state["metrics_size"])
    progress: dict[str, Any] = state["progress"]
    return progress
