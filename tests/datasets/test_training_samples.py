"""The samples that train: held back, cut to a share, given wrong labels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opt_runner.datasets import Digits, Images, Samples
from opt_runner.errors import UserError

shares = st.floats(0.001, 0.5)
seeds = st.integers(0, 2**31 - 1)


def images(labels: list[int]) -> Images:
    """Training images that are their own number, in two bytes."""
    numbers = torch.arange(len(labels))
    numbered = torch.stack([numbers // 256, numbers % 256], dim=1).byte()[:, :, None, None]
    train = Samples(numbered, torch.tensor(labels))
    return Images(train, train[:1], [str(n) for n in range(12)])


def numbers(of: torch.Tensor) -> list[int]:
    return [256 * high + low for high, low in of[:, :, 0, 0].tolist()]


@given(st.lists(st.integers(0, 11), min_size=1, max_size=400), shares, seeds)
def test_complete_disjoint_and_within_one_image_a_class(
    labels: list[int], share: float, seed: int
) -> None:
    data = images(labels)
    try:
        kept, held = data.hold_back(share, seed)
    except UserError:
        assert round(share * len(labels)) <= sum(labels.count(c) == 1 for c in set(labels))
        return
    trained, validated = numbers(kept.train.inputs), numbers(held.inputs)
    assert trained == sorted(trained)
    assert sorted(trained + validated) == list(range(len(labels)))
    assert kept.train.targets.tolist() == [labels[i] for i in trained]
    assert held.targets.tolist() == [labels[i] for i in validated]
    for label in set(labels):
        count, taken = labels.count(label), held.targets.tolist().count(label)
        assert abs(taken - share * count) < 1
        assert taken < count
    singles = sum(labels.count(label) == 1 for label in set(labels))
    assert abs(len(validated) - share * len(labels)) <= 0.5 + singles
    assert kept.test.inputs is data.test.inputs


@given(shares.filter(lambda share: share > 0.01), seeds)
def test_the_same_in_every_call_whatever_torch_s_own_seed(share: float, seed: int) -> None:
    data = images([i % 7 for i in range(300)])
    torch.manual_seed(1)
    first = data.hold_back(share, seed)[1]
    torch.manual_seed(2)
    assert numbers(first.inputs) == numbers(data.hold_back(share, seed)[1].inputs)


def test_another_seed_takes_other_images() -> None:
    data = images([i % 7 for i in range(300)])
    assert numbers(data.hold_back(0.1, 0)[1].inputs) != numbers(data.hold_back(0.1, 1)[1].inputs)


def test_a_share_that_is_no_image_is_refused() -> None:
    with pytest.raises(UserError, match=r"dataset.validation=0.01 of 20 training samples is none"):
        images([0, 1] * 10).hold_back(0.01, 0)


def test_digits() -> None:
    kept, held = Digits().load().hold_back(0.1, 0)
    assert (len(kept.train.inputs), len(held.inputs)) == (1442 - 144, 144)
    assert set(held.targets.bincount().tolist()) == {14, 15}


@given(st.lists(st.integers(0, 11), min_size=1, max_size=400), st.floats(0.001, 1), seeds)
def test_a_part_has_its_share_of_every_class(labels: list[int], share: float, seed: int) -> None:
    kept = images(labels).part(share, seed)
    stayed = numbers(kept.train.inputs)
    assert stayed == sorted(set(stayed))
    assert kept.train.targets.tolist() == [labels[i] for i in stayed]
    for label in set(labels):
        want = share * labels.count(label)
        assert want - 1e-3 <= kept.train.targets.tolist().count(label) < want + 1


@pytest.mark.parametrize(
    ("share", "kept"), [(0.3, 30), (0.15, 15), (0.6, 60), (0.301, 31), (1e-6, 1)]
)
def test_a_part_of_a_hundred_images_a_class_is_not_rounded_twice(share: float, kept: int) -> None:
    """In float32 0.3 of 100 is 30.000002: 31 images."""
    data = images([0] * 100 + [1] * 100)
    assert data.part(share, 0).train.targets.bincount().tolist() == [kept, kept]


def test_parts_differ_by_seed_alone() -> None:
    data = images([i % 7 for i in range(300)])
    first = numbers(data.part(0.1, 0).train.inputs)
    assert first == numbers(data.part(0.1, 0).train.inputs)
    assert first != numbers(data.part(0.1, 1).train.inputs)


@given(st.floats(0, 0.99), seeds)
def test_label_noise_gives_that_share_of_images_another_class(share: float, seed: int) -> None:
    data = images([i % 12 for i in range(300)])
    noisy = data.with_label_noise(share, seed)
    assert int((noisy.train.targets != data.train.targets).sum()) == round(share * 300)
    assert noisy.train.targets.min() >= 0
    assert noisy.train.targets.max() < 12
    assert noisy.test.targets is data.test.targets
    assert torch.equal(noisy.train.targets, data.with_label_noise(share, seed).train.targets)


def test_label_noise_takes_all_other_classes_alike() -> None:
    data = images([3] * 12_000)
    counts = data.with_label_noise(0.5, 0).train.targets.bincount(minlength=12)
    assert counts[3] == 6000
    others = counts[[c for c in range(12) if c != 3]]
    assert others.min() > 450
    assert others.max() < 650
