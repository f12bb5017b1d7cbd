"""An augmentation of a user's own, after the crop and the flip."""

import pytest
import torch
from torch import Tensor

from opt_runner.datasets import Augment, Batches
from opt_runner.datasets.augmentation import check_on
from opt_runner.errors import UserError


class Brighter:
    """Adds a value of its own to each image."""

    def draw(
        self, count: int, size: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        return (torch.randint(1, 50, (count,), generator=generator),)

    def apply(self, images: Tensor, value: Tensor) -> Tensor:
        return (images + value[:, None, None, None]).to(images.dtype)


def batches(then: Brighter | None, **options) -> Batches:
    images = torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    augment = Augment(pad=0, flip=False, then=then)
    return Batches(images.contiguous(), torch.arange(12), 4, seed=0, augment=augment, **options)


def test_it_changes_each_image_by_its_own_draw() -> None:
    x, y = batches(Brighter()).batch(0)
    added = (x * 128 + 127.5).round().long() - y[:, None, None, None]
    assert (added == added[:, :1, :1, :1]).all()
    values = added[:, 0, 0, 0]
    assert values.min() >= 1
    assert len(values.unique()) > 1


def test_it_leaves_the_order_and_the_crops_as_they_are() -> None:
    for step in range(6):
        assert torch.equal(batches(Brighter()).batch(step)[1], batches(None).batch(step)[1])


def test_any_step_first_and_any_part() -> None:
    uncut = batches(Brighter())
    expected = [uncut.batch(step)[0] for step in range(7)]
    assert torch.equal(batches(Brighter()).batch(6)[0], expected[6])
    halves = [batches(Brighter(), part=(i, 2)).batch(4)[0] for i in range(2)]
    assert torch.equal(torch.cat(halves), expected[4])
    assert not torch.equal(expected[0], expected[3]), "each epoch draws anew"


class Floats(Brighter):
    def apply(self, images: Tensor, value: Tensor) -> Tensor:
        return images / 2


class OneForAll(Brighter):
    def draw(
        self, count: int, size: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        return (torch.rand(1, generator=generator),)


class Plain(Brighter):
    def draw(  # type: ignore[override]
        self, count: int, size: tuple[int, int], generator: torch.Generator
    ) -> list[float]:
        return [0.5]


class Nothing(Brighter):
    def apply(self, images: Tensor, value: Tensor) -> None:  # type: ignore[override]
        super().apply(images, value)


@pytest.mark.parametrize(
    ("augmentation", "says"),
    [
        (Nothing(), "Nothing.apply returns None: it must return the images"),
        (Floats(), r"augment.then: Floats.apply returns torch.float32 \(2, 1, 4, 4\) for images "
                   r"torch.uint8 \(2, 1, 4, 4\): type and shape must stay"),
        (OneForAll(), r"OneForAll.draw returns a tensor of shape \(1,\) for 2 images: its first "
                      "size must be their number"),
        (Plain(), r"Plain.draw must return tensors \(count, ...\) on the CPU"),
    ],
)  # fmt: skip
def test_what_it_must_give_is_checked_before_training(augmentation: Brighter, says: str) -> None:
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(UserError, match=says):
        check_on(augmentation, images, "augment.then")
    check_on(Brighter(), images, "augment.then")


class Seen(Brighter):
    """Keeps the type of the images that it is given."""

    def apply(self, images: Tensor, value: Tensor) -> Tensor:
        self.dtype = images.dtype
        return super().apply(images, value)


def test_it_is_given_bytes_after_a_resized_crop_as_well() -> None:
    seen = Seen()
    images = torch.randint(0, 200, (8, 1, 16, 16), dtype=torch.uint8)
    augment = Augment(resized_crop=0.3, then=seen)
    Batches(images, torch.arange(8), 4, seed=0, augment=augment).batch(0)
    assert seen.dtype == torch.uint8
