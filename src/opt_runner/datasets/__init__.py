"""Image data: its sources, batches on the device, and augmentation."""

from opt_runner.datasets.ahead import pieces
from opt_runner.datasets.augment import Augment
from opt_runner.datasets.augmentation import Augmentation
from opt_runner.datasets.batches import Batches, normalise
from opt_runner.datasets.dataset import Dataset
from opt_runner.datasets.digits import Digits
from opt_runner.datasets.folder import ImageFolder
from opt_runner.datasets.images import Images
from opt_runner.datasets.stored import Stored
from opt_runner.datasets.torchvision_sets import TorchvisionSet, published_set
from opt_runner.datasets.training_images import (
    Validation,
    hold_back,
    part,
    with_label_noise,
)

__all__ = [
    "Augment",
    "Augmentation",
    "Batches",
    "Dataset",
    "Digits",
    "ImageFolder",
    "Images",
    "Stored",
    "TorchvisionSet",
    "Validation",
    "hold_back",
    "normalise",
    "part",
    "pieces",
    "published_set",
    "with_label_noise",
]
