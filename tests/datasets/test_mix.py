"""Mixup and CutMix: a function of seed and step, and targets that are the images' true shares."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from opt_runner.datasets import Augment, Batches, Mix
from opt_runner.datasets.labelled import smoothed_cross_entropy
from tests.datasets.test_batches import same
from tests.gpu import Gpu

CLASSES, COUNT = 24, 24
# Of image k every pixel is k.
IMAGES = torch.arange(COUNT, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 6, 8)
MIXES = [Mix(0.4, None, CLASSES), Mix(None, 1.0, CLASSES), Mix(0.4, 1.0, CLASSES)]


def build(mix: Mix | None, **options) -> Batches:
    options = {"batch_size": 8, "augment": Augment(pad=2), **options}
    return Batches(IMAGES.contiguous(), torch.arange(COUNT), seed=3, mix=mix, **options)


def pixels(x: Tensor) -> Tensor:
    return x * 128 + 127.5


@pytest.mark.parametrize("mix", MIXES)
def test_the_targets_are_the_shares_of_the_two_images(mix: Mix) -> None:
    shares = []
    for step in range(6):
        x, y = build(mix).batch(step)
        assert torch.allclose(y.sum(1), torch.ones(8))
        assert (y > 0).sum(1).max() <= 2
        mean = (y * torch.arange(CLASSES)).sum(1)
        assert torch.allclose(pixels(x).mean((1, 2, 3)), mean, atol=1e-3)
        shares += y.amax(1).tolist()
    assert len(set(shares)) > 12, "each image has a share of its own"


def test_mixup_blends_and_cutmix_pastes() -> None:
    kinds = []
    for mix in MIXES:
        x = torch.cat([build(mix, augment=None).batch(step)[0] for step in range(3)])
        kinds.append([len(image.unique()) for image in x])
    assert set(kinds[0]) == {1}
    assert max(kinds[1]) == 2
    assert 1 < sum(n == 2 for n in kinds[2]) < COUNT - 1


def test_a_box_is_whole_and_sharp() -> None:
    drawn = torch.tensor([[0.25, 1, 0.5, 0.5], [0.25, 1, 0.0, 0.0]])
    images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    mixed, targets = Mix(None, 1.0, 2).apply(images, torch.tensor([0, 1]), drawn.double())
    expected = torch.zeros(8, 8)
    expected[2:6, 2:6] = 1
    assert torch.equal(mixed[0, 0], expected)
    expected = torch.ones(8, 8)
    expected[:2, :2] = 0
    assert torch.equal(mixed[1, 0], expected)
    assert targets.tolist() == [[0.75, 0.25], [0.0625, 0.9375]]


@pytest.mark.parametrize("mix", MIXES)
def test_any_step_first_streamed_and_in_parts(mix: Mix) -> None:
    uncut = build(mix)
    expected = [uncut.batch(step) for step in range(7)]
    for step in (6, 0, 4):
        assert same(build(mix).batch(step), expected[step])
        halves = [build(mix, part=(i, 2)).batch(step) for i in range(2)]
        assert same((torch.cat([x for x, _ in halves]), torch.cat([y for _, y in halves])),
                    expected[step])  # fmt: skip
    streamed = build(mix, streamed=True)
    assert same(streamed.batch(6), expected[6])
    streamed.close()
    assert not torch.equal(expected[0][1], expected[3][1]), "each epoch draws anew"


def test_order_and_crops_stay() -> None:
    images = torch.randint(256, (COUNT, 3, 6, 6), generator=torch.Generator().manual_seed(1))
    plain, mixed = (
        Batches(images.byte(), torch.arange(COUNT), 5, seed=0, augment=Augment(pad=2), mix=mix)
        for mix in (None, Mix(1e-3, None, CLASSES))  # shares of nearly 0 or 1
    )
    (x, y), (x_mixed, y_mixed) = plain.batch(5), mixed.batch(5)
    assert torch.equal(y_mixed[-1], one_hot(y[-1], CLASSES).float()), "an odd one stays alone"
    assert torch.equal(x_mixed[-1], x[-1])
    kept = y_mixed.argmax(1) == y
    assert kept.any()
    assert torch.allclose(x_mixed[kept], x[kept], atol=1e-2)


@pytest.mark.parametrize("floor", [0.0, 1e-4])
def test_the_loss_of_probabilities_is_that_of_labels_weighted(floor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    labels, others = torch.randint(5, (2, 6), generator=generator)
    p = 0.7 * one_hot(labels, 5).double() + 0.3 * one_hot(others, 5).double()
    found = smoothed_cross_entropy(logits, p, 0.1, floor)
    parts = [smoothed_cross_entropy(logits, one, 0.1, floor) for one in (labels, others)]
    assert torch.allclose(found, 0.7 * parts[0] + 0.3 * parts[1])
    if not floor:
        assert torch.allclose(found, cross_entropy(logits, p, label_smoothing=0.1))
    hard = smoothed_cross_entropy(logits, one_hot(labels, 5).double(), 0.1, floor)
    assert torch.equal(hard, parts[0])


def test_gpu_gets_the_same_batches_without_being_waited_for(gpu: Gpu) -> None:
    here = build(MIXES[2])
    images, labels = IMAGES.contiguous().to(gpu.device), torch.arange(COUNT).to(gpu.device)
    there = Batches(images, labels, 8, seed=3, augment=Augment(pad=2), mix=MIXES[2])
    with gpu.no_waits():
        batches = [there.batch(step) for step in range(5)]
    for step, (x, y) in enumerate(batches):
        assert torch.allclose(x.cpu(), here.batch(step)[0])
        assert torch.allclose(y.cpu(), here.batch(step)[1])
