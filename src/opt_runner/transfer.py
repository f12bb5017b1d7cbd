"""The way of a tensor to the device."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; neither waits for the other.

    A GPU is not waited for only where the copy starts from pinned memory, which stays in use until
    the copy is made.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
