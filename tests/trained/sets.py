"""Datasets that fit a network trained on digits more or less well."""

from dataclasses import replace

from opt_runner.datasets import Digits, Images


class Reversed(Digits):
    """The digits, their classes listed from 9 to 0."""

    def load(self) -> Images:
        images = super().load()
        return replace(
            images,
            classes=images.classes[::-1],
            train_labels=9 - images.train_labels,
            test_labels=9 - images.test_labels,
        )


class Few(Digits):
    """Those below five."""

    def load(self) -> Images:
        images = super().load()
        train, test = images.train_labels < 5, images.test_labels < 5
        return Images(
            images.train_images[train],
            images.train_labels[train],
            images.test_images[test],
            images.test_labels[test],
            images.classes[:5],
        )


class Renamed(Digits):
    """The digits under other names."""

    def load(self) -> Images:
        images = super().load()
        return replace(images, classes=[f"digit {name}" for name in images.classes])


class Unknown(Few):
    """Fewer digits under other names."""

    def load(self) -> Images:
        return replace(super().load(), classes=list("abcde"))


class Larger(Digits):
    """Images of another size."""

    def load(self) -> Images:
        images = super().load()
        return replace(
            images,
            train_images=images.train_images.repeat(1, 1, 2, 2),
            test_images=images.test_images.repeat(1, 1, 2, 2),
        )
