"""The padded crop against numpy: pad symmetrically, crop, flip, one image at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from opt_runner.datasets.augment import Augment
from opt_runner.datasets.crops import padded_crop
from opt_runner.errors import UserError


def reference(images: Tensor, rows: Tensor, columns: Tensor, flips: Tensor, pad: int) -> np.ndarray:
    height, width = images.shape[2:]
    crops = []
    for image, row, column, flip in zip(images.numpy(), rows, columns, flips, strict=True):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="symmetric")
        crop = padded[:, row : row + height, column : column + width]
        crops.append(crop[:, :, ::-1] if flip else crop)
    return np.stack(crops)


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 3]),
    count=st.integers(1, 6),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_it_is_pad_crop_flip(
    height: int, width: int, channels: int, count: int, share: float, seed: int
) -> None:
    pad = round(share * min(height, width))
    generator = torch.Generator().manual_seed(seed)
    store = torch.randint(256, (7, channels, height, width), generator=generator).byte()
    index = torch.randint(7, (count,), generator=generator)
    rows, columns, flips = Augment(pad=pad).draw(count, (height, width), generator)
    crops = padded_crop(store[index], rows, columns, flips, pad)
    assert crops.dtype == torch.uint8
    np.testing.assert_array_equal(crops, reference(store[index], rows, columns, flips, pad))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_offset_of_one_image(dtype: torch.dtype) -> None:
    pad, count = 4, 81
    store = torch.arange(3 * 8 * 8).reshape(1, 3, 8, 8).to(dtype)
    rows, columns = torch.cartesian_prod(torch.arange(9), torch.arange(9)).T
    flips = torch.arange(count) % 2 == 0
    crops = padded_crop(store.expand(count, -1, -1, -1), rows, columns, flips, pad)
    expected = reference(store.expand(count, -1, -1, -1), rows, columns, flips, pad)
    np.testing.assert_array_equal(crops, expected)


def test_centred_crop_is_the_image() -> None:
    store = torch.randint(256, (3, 3, 6, 5)).byte()
    index, centre = torch.tensor([2, 0, 1]), torch.full((3,), 2)
    crops = padded_crop(store[index], centre, centre, torch.zeros(3, dtype=torch.bool), 2)
    assert torch.equal(crops, store[index])


def test_draws_cover_all_offsets_evenly() -> None:
    rows, columns, flips = Augment(pad=4).draw(90_000, (8, 8), torch.Generator().manual_seed(0))
    for offsets in (rows, columns):
        counts = offsets.bincount()
        assert len(counts) == 9
        assert (counts - 10_000).abs().max() < 500
    assert not torch.equal(rows, columns)
    assert flips.float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_no_flip_where_none_is_wanted() -> None:
    assert not Augment(flip=False).draw(1000, (8, 8), torch.Generator())[2].any()


@pytest.mark.parametrize("pad", [-1, 5])
def test_refuses_a_pad_that_one_reflection_cannot_reach(pad: int) -> None:
    with pytest.raises(UserError, match=rf"pad={pad} .* 4 x 8.* 0 to 4"):
        Augment(pad=pad).check((4, 8))
    Augment(pad=4).check((4, 8))
