"""RandAugment and TrivialAugment: torchvision's pixels, drawn by seed and epoch alone."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from opt_runner.datasets import Augment, Batches, RandAugment
from opt_runner.datasets.augmentation import check_on
from opt_runner.datasets.rand_augment import OPERATIONS, changed_by
from opt_runner.errors import UserError


def pictures(channels: int = 3, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(channels)
    return torch.randint(20, 200, (count, channels, 12, 16), generator=generator).byte()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("theirs", "wide"), [(v2.RandAugment(), False), (v2.TrivialAugmentWide(), True)]
)
def test_every_operation_is_torchvisions(theirs, wide: bool, channels: int) -> None:
    space = {name.lower(): (name, *row) for name, row in theirs._AUGMENTATION_SPACE.items()}
    assert set(space) == {operation.replace("_", "") for operation in OPERATIONS}
    images = pictures(channels)
    for operation in OPERATIONS:
        name, magnitudes, signed = space[operation.replace("_", "")]
        values = magnitudes(31, 12, 16)
        for level in (0, 9, 17, 30):
            for sign in (1, -1) if signed else (1,):
                value = 0.0 if values is None else sign * float(values[level])
                expected = theirs._apply_image_or_video_transform(
                    images, name, value, interpolation=theirs.interpolation, fill=theirs._fill
                )
                found = changed_by(images, operation, sign * level / 30, wide)
                # A magnitude in float32 may round a pixel otherwise.
                near = (found.int() - expected.int()).abs() <= 1
                assert near.double().mean() > 0.98, (operation, level, sign)


@pytest.mark.parametrize("chosen", [RandAugment(), RandAugment(1, None, wide=True)])
def test_each_image_gets_its_own_operations_one_after_the_other(chosen: RandAugment) -> None:
    images = pictures(count=40)
    (drawn,) = chosen.draw(40, (12, 16), torch.Generator().manual_seed(0))
    assert len({tuple(row) for row in drawn[:, 0].tolist()}) > 8
    found = chosen.apply(images, drawn)
    for image, operations, after in zip(images, drawn.tolist(), found, strict=True):
        alone = image[None]
        for number, level in operations:
            alone = changed_by(alone, OPERATIONS[number], level / 30, chosen.wide)
        assert torch.equal(alone[0], after)


def test_magnitudes_are_as_chosen() -> None:
    generator = torch.Generator().manual_seed(0)
    (fixed,) = RandAugment(3, 9).draw(500, (8, 8), generator)
    assert set(fixed[..., 1].flatten().tolist()) == {-9, 0, 9}
    (free,) = RandAugment(1, None).draw(5000, (8, 8), generator)
    assert set(free[..., 1].flatten().tolist()) == set(range(-30, 31))
    assert set(free[..., 0].flatten().tolist()) == set(range(14))


def test_batches_are_a_function_of_seed_and_step() -> None:
    def build(**options) -> Batches:
        augment = Augment(pad=1, then=RandAugment())
        return Batches(pictures(1, 12), torch.arange(12), 4, seed=0, augment=augment, **options)

    uncut = build()
    expected = [uncut.batch(step)[0] for step in range(7)]
    torch.manual_seed(5)
    assert torch.equal(build().batch(6)[0], expected[6])
    halves = [build(part=(i, 2)).batch(4)[0] for i in range(2)]
    assert torch.equal(torch.cat(halves), expected[4])


def test_other_channels_are_refused_before_training() -> None:
    images = torch.zeros(2, 4, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"RandAugment.apply fails: it takes 1 or 3 .*, not 4"):
        check_on(RandAugment(), images, "augment.then")
