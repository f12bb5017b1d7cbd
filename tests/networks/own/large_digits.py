"""A few of the embedded digits, made larger: images for networks that need 32 pixels."""

from dataclasses import replace

from torch import Tensor

from opt_runner.datasets import Digits, Images, Samples


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
            train=Samples(self._enlarged(digits.train.inputs), digits.train.targets[: self.count]),
            test=Samples(self._enlarged(digits.test.inputs), digits.test.targets[: self.count]),
        )

    def _enlarged(self, images: Tensor) -> Tensor:
        few = images[: self.count]
        return few.repeat_interleave(self.times, 2).repeat_interleave(self.times, 3)
