"""What the peak of allocated memory counts."""

import torch

from benchmarks.memory import peak_allocated

MIB = 2**20
CPU = torch.device("cpu")


def bytes_of(mebibytes: int) -> torch.Tensor:
    return torch.zeros(mebibytes * MIB, dtype=torch.uint8)


def test_it_is_the_most_that_is_held_at_once() -> None:
    kept = []

    def run() -> None:
        kept.append(bytes_of(1))
        for _ in range(3):
            bytes_of(4)  # freed again each time
        kept.append(bytes_of(2))

    assert 5 * MIB <= peak_allocated(run, CPU) < 5.01 * MIB


def test_what_was_held_before_is_not_counted() -> None:
    before = [bytes_of(8)]
    assert peak_allocated(before.clear, CPU) == 0


def test_a_product_holds_its_result() -> None:
    A = torch.ones(512, 512)
    assert MIB <= peak_allocated(lambda: A @ A, CPU) < 1.01 * MIB
