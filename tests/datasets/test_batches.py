"""Batches: a function of (seed, step) alone, and every image once an epoch."""

import itertools

import pytest
import torch
from torch import Tensor

from opt_runner.datasets import Augment, Batches, normalise
from opt_runner.datasets.batches import mix
from opt_runner.errors import UserError
from tests.gpu import Gpu

COUNT = 23


def numbered(count: int = COUNT) -> tuple[Tensor, Tensor]:
    """Images that differ at every pixel, labelled by their number."""
    images = torch.randint(256, (count, 3, 6, 6), generator=torch.Generator().manual_seed(9))
    return images.byte(), torch.arange(count)


def build(seed: int = 0, augment: Augment | None = None, **options) -> Batches:
    return Batches(*numbered(), batch_size=5, seed=seed, augment=augment, **options)


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_every_image_once_an_epoch_bar_the_dropped() -> None:
    batches = build()
    assert batches.steps_per_epoch == 4
    orders = []
    for epoch in range(3):
        labels = torch.cat([batches.batch(4 * epoch + i)[1] for i in range(4)]).tolist()
        assert len(set(labels)) == len(labels) == 20
        orders.append(labels)
    assert orders[0] != orders[1] != orders[2]


def test_unaugmented_batch_is_the_normalised_images() -> None:
    images, _ = numbered()
    x, y = build(augment=None).batch(2)
    assert torch.equal(x, normalise(images[y]))


@pytest.mark.parametrize("augment", [None, Augment(pad=2)])
def test_same_seed_same_batches_in_any_order(augment: Augment | None) -> None:
    forward, backward = build(augment=augment), build(augment=augment)
    expected = [forward.batch(step) for step in range(12)]
    for step in reversed(range(12)):
        assert same(backward.batch(step), expected[step])
    assert same(build(augment=augment).batch(7), expected[7])


def test_seeds_and_epochs_differ() -> None:
    firsts = [build(seed).batch(step)[1].tolist() for seed in range(4) for step in (0, 4, 8)]
    assert all(a != b for a, b in itertools.combinations(firsts, 2))


def test_mix_separates_neighbours() -> None:
    mixed = {mix(seed, epoch) for seed in range(50) for epoch in range(50)}
    assert len(mixed) == 2500
    assert mix(1, 2) != mix(2, 1)


def test_same_image_gets_other_crops_in_other_epochs() -> None:
    images, labels = numbered(1)
    batches = Batches(images, labels, batch_size=1, seed=0, augment=Augment(pad=3))
    crops = {batches.batch(step)[0].numpy().tobytes() for step in range(20)}
    assert len(crops) > 10


def test_augmented_pixels_are_the_images_own() -> None:
    images, _ = numbered()
    x, y = build(augment=Augment(pad=2)).batch(0)
    for crop, label in zip(x, y, strict=True):
        assert set(crop.flatten().tolist()) <= set(normalise(images[label]).flatten().tolist())


@pytest.mark.parametrize("augment", [None, Augment(pad=2)])
def test_memory_format_changes_nothing_else(augment: Augment | None) -> None:
    x, y = build(augment=augment).batch(1)
    last, y_last = build(augment=augment, memory_format=torch.channels_last).batch(1)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    assert same((last, y_last), (x, y))


def test_normalise_is_exact() -> None:
    values = torch.arange(256).byte()
    normal = normalise(values)
    assert normal.dtype == torch.float32
    assert normal.double().equal((values.double() - 127.5) / 128)
    assert (values == torch.arange(256)).all()


@pytest.mark.parametrize("batch_size", [0, -1, COUNT + 1])
def test_refuses_a_batch_size_that_does_not_suit(batch_size: int) -> None:
    with pytest.raises(UserError, match=rf"batch size {batch_size} .* 1 to {COUNT}"):
        Batches(*numbered(), batch_size=batch_size, seed=0)


def test_one_batch_may_take_all() -> None:
    batches = Batches(*numbered(), batch_size=COUNT, seed=0)
    assert batches.steps_per_epoch == 1
    assert sorted(batches.batch(3)[1].tolist()) == list(range(COUNT))


def test_refuses_a_pad_larger_than_the_images() -> None:
    with pytest.raises(UserError, match=r"pad=7 .* 6 x 6"):
        build(augment=Augment(pad=7))


@pytest.mark.parametrize("streamed", [False, True])
def test_gpu_gets_the_same_batches_without_being_waited_for(streamed: bool, gpu: Gpu) -> None:
    images, labels = numbered()
    here = Batches(images, labels, 5, seed=3, augment=Augment(pad=2))
    there = Batches(
        images if streamed else images.to(gpu.device),
        labels.to(gpu.device),
        5,
        seed=3,
        augment=Augment(pad=2),
        streamed=streamed,
    )
    try:
        with gpu.no_waits():
            batches = [there.batch(step) for step in range(8)]
    finally:
        there.close()
    for step, (x, y) in enumerate(batches):
        assert same((x.cpu(), y.cpu()), here.batch(step))
