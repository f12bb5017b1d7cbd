"""The random resized crop against torchvision's, image by image."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from opt_runner.datasets import Augment
from opt_runner.datasets.crops import RATIOS, draw_boxes, resized_crop

sides = st.integers(1, 40)
leasts = st.floats(0.01, 1)
seeds = st.integers(0, 2**32 - 1)


# Of a single column PyTorch's antialiased resizing interpolates nothing down the rows.
@given(sides, st.integers(2, 40), leasts, seeds)
def test_it_is_torchvision_s_cut_resized_and_mirrored(
    height: int, width: int, least: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (6, 3, height, width), generator=generator).byte()
    first, lengths = draw_boxes(6, (height, width), least, generator)
    flips = torch.arange(6) % 2 == 0
    boxes = torch.cat([first, lengths], dim=1).tolist()
    found = resized_crop(images, first, lengths, flips)
    for image, box, flip, crop in zip(images, boxes, flips, found, strict=True):
        expected = v2.functional.resized_crop(image.float(), *box, [height, width], antialias=True)
        expected = expected.flip(-1) if flip else expected
        assert (crop - expected).abs().max() < 0.02  # of 255: rounding of positions to float32


@given(sides, sides, leasts, seeds)
def test_boxes_lie_inside_and_have_their_area_and_shape(
    height: int, width: int, least: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, lengths = draw_boxes(50, (height, width), least, generator)
    whole = torch.tensor([height, width])
    assert (first >= 0).all()
    assert (lengths >= 1).all()
    assert (first + lengths <= whole).all()
    for down, across in lengths.tolist():
        if (down, across) == (height, width):
            continue  # as what does not fit is
        assert (down + 0.5) * (across + 0.5) >= least * height * width
        assert (across + 0.5) / max(0.5, down - 0.5) >= RATIOS[0]
        assert (across - 0.5) / (down + 0.5) <= RATIOS[1]


def test_boxes_are_distributed_as_torchvision_s() -> None:
    side, count = 100, 4000
    torch.manual_seed(0)
    theirs = torch.tensor(
        [
            v2.RandomResizedCrop(side).make_params([torch.empty(3, side, side)])[key]
            for _ in range(count)
            for key in ("top", "left", "height", "width")
        ]
    ).view(-1, 4)
    ours = torch.cat(draw_boxes(count, (side, side), 0.08, torch.Generator().manual_seed(0)), dim=1)
    for mine, other in zip(ours.T.double(), theirs.T.double(), strict=True):
        apart = math.sqrt(2 / count)  # in standard deviations of a mean's error
        assert abs(mine.mean() - other.mean()) < 4 * apart * other.std()
        assert float(mine.std()) == pytest.approx(float(other.std()), rel=0.1)


def test_the_whole_image_stays_as_it_is() -> None:
    images = torch.randint(256, (30, 3, 17, 9)).byte()
    drawn = Augment(resized_crop=1, flip=False).draw(30, (17, 9), torch.Generator())
    first, lengths, _ = drawn
    whole = (lengths == torch.tensor([17, 9])).all(1)
    assert whole.any()
    assert (first[whole] == 0).all()
    found = Augment(resized_crop=1).apply(images, *drawn)
    assert (found - images)[whole].abs().max() < 0.02


def test_the_padding_does_not_count_then() -> None:
    Augment(pad=9, resized_crop=0.08).check((4, 4))
