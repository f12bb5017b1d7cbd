"""What of the training images is trained on: held back, cut to a share, given wrong labels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opt_runner.datasets import Digits, Images, hold_back, part, with_label_noise
from opt_runner.errors import UserError

shares = st.floats(0.001, 0.5)
seeds = st.integers(0, 2**31 - 1)


def images(labels: list[int]) -> Images:
    """Training images that are their own number, in two bytes."""
    numbers = torch.arange(len(labels))
    numbered = torch.stack([numbers // 256, numbers % 256], dim=1).byte()[:, :, None, None]
    return Images(
        numbered,
        torch.tensor(labels),
        numbered[:1],
        torch.zeros(1, dtype=torch.int64),
        [str(n) for n in range(12)],
    )


def numbers(of: torch.Tensor) -> list[int]:
    return [256 * high + low for high, low in of[:, :, 0, 0].tolist()]


@given(st.lists(st.integers(0, 11), min_size=1, max_size=400), shares, seeds)
def test_complete_disjoint_and_within_one_image_a_class(
    labels: list[int], share: float, seed: int
) -> None:
    data = images(labels)
    try:
        kept, held = hold_back(data, share, seed)
    except UserError:
        assert round(share * len(labels)) <= sum(labels.count(c) == 1 for c in set(labels))
        return
    trained, validated = numbers(kept.train_images), numbers(held.images)
    assert trained == sorted(trained)
    assert sorted(trained + validated) == list(range(len(labels)))
    assert kept.train_labels.tolist() == [labels[i] for i in trained]
    assert held.labels.tolist() == [labels[i] for i in validated]
    for label in set(labels):
        count, taken = labels.count(label), held.labels.tolist().count(label)
        assert abs(taken - share * count) < 1
        assert taken < count
    singles = sum(labels.count(label) == 1 for label in set(labels))
    assert abs(len(validated) - share * len(labels)) <= 0.5 + singles
    assert kept.test_images is data.test_images


@given(shares.filter(lambda share: share > 0.01), seeds)
def test_the_same_in_every_call_whatever_torch_s_own_seed(share: float, seed: int) -> None:
    data = images([i % 7 for i in range(300)])
    torch.manual_seed(1)
    first = hold_back(data, share, seed)[1]
    torch.manual_seed(2)
    assert numbers(first.images) == numbers(hold_back(data, share, seed)[1].images)


def test_another_seed_takes_other_images() -> None:
    data = images([i % 7 for i in range(300)])
    assert numbers(hold_back(data, 0.1, 0)[1].images) != numbers(hold_back(data, 0.1, 1)[1].images)


def test_a_share_that_is_no_image_is_refused() -> None:
    with pytest.raises(UserError, match=r"dataset.validation=0.01 of 20 training images is no im"):
        hold_back(images([0, 1] * 10), 0.01, 0)


def test_digits() -> None:
    kept, held = hold_back(Digits().load(), 0.1, 0)
    assert (len(kept.train_images), len(held.images)) == (1442 - 144, 144)
    assert set(held.labels.bincount().tolist()) == {14, 15}


@given(st.lists(st.integers(0, 11), min_size=1, max_size=400), st.floats(0.001, 1), seeds)
def test_a_part_has_its_share_of_every_class(labels: list[int], share: float, seed: int) -> None:
    kept = part(images(labels), share, seed)
    stayed = numbers(kept.train_images)
    assert stayed == sorted(set(stayed))
    assert kept.train_labels.tolist() == [labels[i] for i in stayed]
    for label in set(labels):
        want = share * labels.count(label)
        assert want - 1e-3 <= kept.train_labels.tolist().count(label) < want + 1


@pytest.mark.parametrize(
    ("share", "kept"), [(0.3, 30), (0.15, 15), (0.6, 60), (0.301, 31), (1e-6, 1)]
)
def test_a_part_of_a_hundred_images_a_class_is_not_rounded_twice(share: float, kept: int) -> None:
    """In float32 0.3 of 100 is 30.000002: 31 images."""
    data = images([0] * 100 + [1] * 100)
    assert part(data, share, 0).train_labels.bincount().tolist() == [kept, kept]


def test_parts_differ_by_seed_alone() -> None:
    data = images([i % 7 for i in range(300)])
    first = numbers(part(data, 0.1, 0).train_images)
    assert first == numbers(part(data, 0.1, 0).train_images)
    assert first != numbers(part(data, 0.1, 1).train_images)


@given(st.floats(0, 0.99), seeds)
def test_label_noise_gives_that_share_of_images_another_class(share: float, seed: int) -> None:
    data = images([i % 12 for i in range(300)])
    noisy = with_label_noise(data, share, seed)
    assert int((noisy.train_labels != data.train_labels).sum()) == round(share * 300)
    assert noisy.train_labels.min() >= 0
    assert noisy.train_labels.max() < 12
    assert noisy.test_labels is data.test_labels
    assert torch.equal(noisy.train_labels, with_label_noise(data, share, seed).train_labels)


def test_label_noise_takes_all_other_classes_alike() -> None:
    data = images([3] * 12_000)
    counts = with_label_noise(data, 0.5, 0).train_labels.bincount(minlength=12)
    assert counts[3] == 6000
    others = counts[[c for c in range(12) if c != 3]]
    assert others.min() > 450
    assert others.max() < 650
