"""A few of the embedded digits, made larger: images for networks that need 32 pixels."""

from dataclasses import replace

from torch import Tensor

from opt_runner.datasets import Digits, Images


class LargeDigits:
    """So many of them to train on, and as many to test on; every pixel `times` x `times`."""

    def __init__(self, count: int = 8, times: int = 4) -> None:
        self.count = count
        self.times = times

    def check(self) -> None:
        """Nothing can be missing."""

    def fingerprint(self) -> str:
        return f"large-digits-{self.count}-{self.times}"

    def load(self) -> Images:
        digits = Digits().load()
        return replace(
            digits,
            train_images=self._enlarged(digits.train_images),
            train_labels=digits.train_labels[: self.count],
            test_images=self._enlarged(digits.test_images),
            test_labels=digits.test_labels[: self.count],
        )

    def _enlarged(self, images: Tensor) -> Tensor:
        few = images[: self.count]
        return few.repeat_interleave(self.times, 2).repeat_interleave(self.times, 3)
