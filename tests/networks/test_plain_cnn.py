"""The plain CNN on images of any size."""

import pytest
import torch

from opt_runner.errors import UserError
from opt_runner.networks import PlainCNN


@pytest.mark.parametrize(
    ("size", "left"), [((8, 8), (1, 1)), ((32, 32), (4, 4)), ((9, 31), (1, 3))]
)
def test_cnn_takes_any_size_that_leaves_a_pixel(size: tuple[int, int], left: tuple) -> None:
    network = PlainCNN(1, size, 3, widths=(4, 4, 4))
    assert network.fc.kernel_size == left
    assert network(torch.randn(2, 1, *size)).shape == (2, 3)


def test_images_too_small_for_its_pools_are_refused() -> None:
    with pytest.raises(UserError, match="at least 8 x 8"):
        PlainCNN(3, (7, 9), 5)
