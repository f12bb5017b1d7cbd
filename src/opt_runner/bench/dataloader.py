"""The usual data path: torchvision's transforms in a DataLoader with two workers."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from opt_runner.datasets import Augment

_WORKERS = 2


class _Pictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR10 holds them, uint8 (N, H, W, C), one at a time through PIL."""

    def __init__(self, images: Tensor, labels: Tensor, transform: transforms.Compose) -> None:
        self.images: np.ndarray = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels: list[int] = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image: Tensor = self.transform(Image.fromarray(self.images[index]))
        return image, self.labels[index]


def loader(
    images: Tensor, labels: Tensor, augment: Augment, batch_size: int, pin_memory: bool
) -> DataLoader[tuple[Tensor, int]]:
    """Batches of the same images (N, C, H, W), augmented and normalised alike.

    The workers live on from epoch to epoch: starting them is not counted.
    """
    side = images.shape[-1]
    transform = transforms.Compose(
        [
            transforms.Pad(augment.pad, padding_mode="symmetric"),
            transforms.RandomCrop(side),
            transforms.RandomHorizontalFlip(0.5 if augment.flip else 0.0),
            transforms.ToTensor(),
            transforms.Normalize(mean=[127.5 / 255] * 3, std=[128 / 255] * 3),
        ]
    )
    return DataLoader(
        _Pictures(images, labels, transform),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=_WORKERS,
        persistent_workers=True,
        pin_memory=pin_memory,
    )


def epoch(batches: "DataLoader[tuple[Tensor, int]]", device: torch.device) -> int:
    """Take every batch to the device; how many there were."""
    count = 0
    for x, y in batches:
        x.to(device, non_blocking=True)
        y.to(device, non_blocking=True)
        count += 1
    return count
