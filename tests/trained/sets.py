"""Datasets that fit a network trained on digits more or less well."""

from dataclasses import replace

from opt_runner.datasets import Digits, Images, Samples


class Reversed(Digits):
    """The digits, their classes listed from 9 to 0."""

    def load(self) -> Images:
        images = super().load()
        return replace(
            images,
            classes=images.classes[::-1],
            train=Samples(images.train.inputs, 9 - images.train.targets),
            test=Samples(images.test.inputs, 9 - images.test.targets),
        )


class Few(Digits):
    """Those below five."""

    def load(self) -> Images:
        images = super().load()
        train, test = images.train.targets < 5, images.test.targets < 5
        return Images(images.train[train], images.test[test], images.classes[:5])


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
            train=replace(images.train, inputs=images.train.inputs.repeat(1, 1, 2, 2)),
            test=replace(images.test, inputs=images.test.inputs.repeat(1, 1, 2, 2)),
        )
