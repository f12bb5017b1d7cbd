"""Images in a file: chosen as of a tensor, read when asked, and what becomes of a damaged file."""

import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opt_runner.datasets import Augment, Batches, Stored, pieces
from opt_runner.datasets.ahead import Ahead
from opt_runner.errors import UserError

COUNT, OFFSET = 23, 5


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (COUNT, 3, 6, 5), generator=generator).byte()


@pytest.fixture
def stored(images: torch.Tensor, tmp_path: Path) -> Stored:
    path = tmp_path / "images"
    path.write_bytes(bytes(OFFSET) + images.numpy().tobytes())
    return Stored(path, OFFSET, (COUNT, 3, 6, 5))


slices = st.slices(COUNT).filter(lambda s: (s.step or 1) > 0 and len(range(*s.indices(COUNT))) > 0)


@given(slices, st.lists(st.booleans(), min_size=COUNT, max_size=COUNT), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_choices_are_those_of_a_tensor(
    images: torch.Tensor, stored: Stored, which: slice, mask: list[bool], data: st.DataObject
) -> None:
    some, tensor = stored[which], images[which]
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(tensor) - 1), min_size=1)))
    chosen = [(some, tensor), (some[index], tensor[index])]
    if any(mask):
        chosen.append((stored[torch.tensor(mask)], images[torch.tensor(mask)]))
    for ours, expected in chosen:
        assert ours.shape == expected.shape
        assert torch.equal(ours.read(), expected)
        assert torch.equal(ours.to("cpu"), expected)
    assert torch.equal(torch.cat(list(pieces(some, 4))), tensor)
    assert torch.equal(torch.cat(list(pieces(tensor, 4))), tensor)


@pytest.mark.parametrize("augment", [None, Augment(pad=2), Augment(resized_crop=0.1)])
@pytest.mark.parametrize("part", [(0, 1), (1, 2)])
def test_batches_are_equal_to_the_bit_from_any_step_on(
    images: torch.Tensor, stored: Stored, augment: Augment | None, part: tuple[int, int]
) -> None:
    labels = torch.arange(COUNT)
    held = Batches(images, labels, 6, 1, augment, part=part)
    expected = [held.batch(step) for step in range(10)]
    for source in (stored, images):
        for first in (0, 2, 7):
            streamed = Batches(source, labels, 6, 1, augment, part=part, streamed=True)
            for step in [*range(first, 10), 4, 0, 9]:
                for ours, theirs in zip(streamed.batch(step), expected[step], strict=True):
                    assert torch.equal(ours, theirs)
            streamed.close()
    assert ahead_threads() == []


def ahead_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("opt-runner")]


def test_a_file_cut_short_is_one_line_and_no_thread_is_left(stored: Stored) -> None:
    batches = Batches(stored, torch.zeros(COUNT, dtype=torch.int64), 5, 0, streamed=True)
    stored.path.write_bytes(b"short")
    with pytest.raises(UserError, match=r"images was cut short since the start: run .* anew$"):
        batches.batch(0)
    batches.close()
    with pytest.raises(UserError, match="cut short"):
        list(pieces(stored, 10))
    assert ahead_threads() == []


def test_a_file_that_is_replaced_is_still_read(images: torch.Tensor, stored: Stored) -> None:
    stored.path.with_name("other").touch()
    stored.path.with_name("other").replace(stored.path)
    assert torch.equal(stored.read(), images)


def test_no_more_is_made_than_so_many_ahead() -> None:
    begun: list[int] = []
    made = threading.Semaphore(0)

    def make(number: int) -> int:
        begun.append(number)
        made.release()
        return number

    ahead = Ahead(make, depth=2)
    assert ahead.take(0) == 0
    assert all(made.acquire(timeout=10) for _ in range(3))
    assert begun == [0, 1, 2]
    assert ahead.take(1) == 1
    assert made.acquire(timeout=10)
    assert ahead.take(9) == 9  # what was made in vain is forgotten
    ahead.close()
    assert begun[:5] == [0, 1, 2, 3, 9]
    assert ahead_threads() == []
