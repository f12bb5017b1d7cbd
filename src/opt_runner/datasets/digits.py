"""The 8 x 8 handwritten digits, embedded in the package: no download."""

from importlib.resources import files

import numpy as np
import torch

from opt_runner.datasets.data import Samples
from opt_runner.datasets.images import Images

BRIGHTEST = 16
TEST_EVERY = 5


class Digits:
    """1,797 grey images of 8 x 8, ten classes: 1,442 to train on, 355 to test on.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository, CC BY 4.0: its test file, as distributed with scikit-learn (BSD-3-Clause).
    Changes made here: the values 0 to 16 are scaled to 0 to 255, and the images are split in two.

    In each class every fifth image is for testing: no random draw, the classes keep their
    balance, and, as the file goes through its writers in turn, both halves hold them all.
    """

    def check(self) -> None:
        """Do nothing: the data are in the package."""

    def fingerprint(self) -> str:
        """Return a constant: the data cannot change."""
        return "digits"

    def load(self) -> Images:
        """Return the images, uint8 (N, 1, 8, 8)."""
        with files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file) as stored:
            images, labels = stored["images"], stored["labels"].astype(np.int64)
        images = np.rint(images * (255 / BRIGHTEST)).astype(np.uint8)[:, None]
        test = torch.zeros(len(labels), dtype=torch.bool)
        for digit in range(10):
            test[np.flatnonzero(labels == digit)[TEST_EVERY - 1 :: TEST_EVERY]] = True
        both = Samples(torch.from_numpy(images), torch.from_numpy(labels))
        return Images(both[~test], both[test], classes=[str(digit) for digit in range(10)])
