"""Copies of tensors to the device."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy of the tensor on the device, without waiting for the device.

    A copy to a GPU does not wait only if it starts from pinned memory. This memory stays in use
    until the copy is made.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
