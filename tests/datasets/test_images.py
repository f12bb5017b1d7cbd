"""Images: what it refuses, and in which words."""

import pytest
import torch

from opt_runner.datasets import Images, Samples
from opt_runner.errors import UserError
from tests.gpu import Gpu


def build(**changes) -> Images:
    fields = {
        "train_images": torch.zeros(6, 3, 4, 5, dtype=torch.uint8),
        "train_labels": torch.tensor([0, 1, 2, 0, 1, 2]),
        "test_images": torch.zeros(2, 3, 4, 5, dtype=torch.uint8),
        "test_labels": torch.tensor([2, 0]),
        "classes": ["a", "b", "c"],
    }
    given = fields | changes
    halves = [
        Samples(given[f"{half}_images"], given[f"{half}_labels"]) for half in ("train", "test")
    ]
    return Images(*halves, given["classes"])


def test_describes_itself() -> None:
    images = build()
    assert (images.channels, images.size, images.num_classes) == (3, (4, 5), 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": torch.zeros(6, 3, 4, 5)}, r"training images .* got torch.float32"),
        ({"test_images": torch.zeros(2, 4, 5, dtype=torch.uint8)}, r"test images .*\(2, 4, 5\)"),
        ({"train_labels": torch.zeros(6)}, r"training labels must be int64"),
        ({"test_labels": torch.zeros(2, 1, dtype=torch.int64)}, r"test labels .*\(2, 1\)"),
        ({"test_labels": torch.tensor([0, 1, 2])}, "2 test images have 3 targets"),
        ({"test_images": torch.zeros(2, 1, 4, 5, dtype=torch.uint8)}, r"\(3, 4, 5\) .*\(1, 4, 5\)"),
        (
            {
                "train_images": torch.zeros(0, 3, 4, 5, dtype=torch.uint8),
                "train_labels": torch.zeros(0, dtype=torch.int64),
            },
            "training set is empty",
        ),
        ({"train_labels": torch.tensor([0, 1, 2, 0, 3, -1])}, "label 3 at index 4 .* 0 to 2"),
        ({"test_labels": torch.tensor([0, -1])}, "test label -1 at index 1"),
        ({"classes": ["a"]}, "1 classes are nothing to learn"),
    ],
)
def test_refuses_what_does_not_fit(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**changes)


def test_moves_all_tensors(gpu: Gpu) -> None:
    moved = build().to(gpu.device)
    for samples in (moved.train, moved.test):
        assert samples.inputs.device == samples.targets.device == gpu.device
