"""The form of images: resized on the device, channels, scale; the default is as ever."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from opt_runner.datasets import Batches, Digits, Form, Samples, TextFile, normalise
from opt_runner.datasets.images import Images
from opt_runner.errors import UserError


def pictures(channels: int, side: tuple[int, int] = (8, 12)) -> Tensor:
    generator = torch.Generator().manual_seed(channels)
    return torch.randint(256, (5, channels, *side), generator=generator).byte()


def pixels(x: Tensor) -> Tensor:
    return x * 128 + 127.5


@pytest.mark.parametrize("form", [Form(), Form(8), Form(8, 3)])
def test_images_that_have_the_form_are_only_scaled(form: Form) -> None:
    images = pictures(3)
    assert torch.equal(form.apply(images, torch.float32), normalise(images))


@pytest.mark.parametrize(("size", "expected"), [(32, [32, 48]), (3, [3, 4]), (8, [8, 12])])
def test_the_short_side_is_resized_as_torchvision_does(size: int, expected: list[int]) -> None:
    images = pictures(3)
    found = pixels(Form(size).apply(images, torch.float32))
    assert list(found.shape[2:]) == expected
    theirs = functional.resize(images.float(), expected, antialias=True)
    assert torch.allclose(found, theirs, atol=1e-3)


def test_grey_becomes_colour_and_colour_grey() -> None:
    grey, colour = pictures(1), pictures(3)
    assert torch.equal(
        Form(channels=3).apply(grey, torch.float32), normalise(grey.repeat(1, 3, 1, 1))
    )
    found = pixels(Form(channels=1).apply(colour, torch.float32))
    theirs = functional.rgb_to_grayscale(colour.double())
    assert torch.allclose(found.double(), theirs, atol=0.1)  # of 255: it has 0.2989 for 0.299


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_std_are_of_each_channel_or_of_all(channels: int) -> None:
    images, mean, std = pictures(channels), [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    found = Form(channels=3, mean=mean, std=std).apply(images, torch.float32)
    theirs = functional.normalize(images.expand(-1, 3, -1, -1) / 255, mean, std)
    assert torch.allclose(found, theirs, atol=1e-5)
    one = Form(mean=[0.5], std=[0.25]).apply(images, torch.float64)
    assert torch.allclose(one, (images.double() / 255 - 0.5) / 0.25)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (Form(channels=3), r"dataset.channels=3: the images have 2 channels: only grey and colour"),
        (Form(mean=[0.5] * 3, std=[1.0]), r"dataset.mean has 3 values for 2 channels: one for"),
        (Form(mean=[0.5], std=[1.0] * 4), r"dataset.std has 4 values for 2 channels: one for"),
    ],
)
def test_forms_that_images_cannot_have(form: Form, says: str) -> None:
    some = Samples(pictures(2), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(UserError, match=says):
        Images(some, some, ["a", "b"]).formed(form)


def test_only_images_have_a_form() -> None:
    text = TextFile().load()
    assert text.formed(Form()) is text
    with pytest.raises(UserError, match=r"are of images, and these are \w+: leave them out"):
        text.formed(Form(size=8))


def test_networks_and_exports_are_told_of_the_form() -> None:
    digits = Digits().load().formed(Form(32, 3, (0.5,), (0.25,)))
    assert digits.gives == {"in_channels": 3, "image_size": (32, 32), "num_classes": 10}
    assert digits.interface.shape == (3, 32, 32)
    assert digits.interface.scale == "pixels x of 0 to 255 as (x / 255 - 0.5) / 0.25"
    assert digits.evaluated_at_once == 1000
    assert digits.formed(Form(256)).evaluated_at_once == 62


def test_batches_have_it_after_the_augmentation_in_the_memory_format() -> None:
    digits = Digits().load().formed(Form(16, 3))
    batches = Batches(
        digits.train.inputs, digits.train.targets, 4, 0, network_input=digits.network_input,
        memory_format=torch.channels_last,
    )  # fmt: skip
    x, _ = batches.batch(0)
    assert x.shape == (4, 3, 16, 16)
    assert x.is_contiguous(memory_format=torch.channels_last)
