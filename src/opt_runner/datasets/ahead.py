"""A thread that works ahead of its consumer."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Generic, TypeVar

from torch import Tensor

from opt_runner.datasets.stored import Stored

T = TypeVar("T")


class Ahead(Generic[T]):
    """Results of make(0), make(1), ..., computed by one thread up to `depth` calls ahead.

    The thread starts with the first `take` and ends with `close`.
    """

    def __init__(self, make: Callable[[int], T], depth: int) -> None:
        self._make = make
        self._depth = depth
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="opt-runner-ahead")
        self._waiting: deque[Future[T]] = deque()
        self._next = 0  # number of the first waiting call

    def take(self, number: int) -> T:
        """Return make(number), or raise its error. Any order works; ascending order is fast."""
        if number != self._next:
            for future in self._waiting:
                future.cancel()
            self._waiting.clear()
            self._next = number
        while len(self._waiting) <= self._depth:
            following = self._next + len(self._waiting)
            self._waiting.append(self._thread.submit(self._make, following))
        self._next += 1
        return self._waiting.popleft().result()

    def close(self) -> None:
        """Wait for the call that the thread has begun, and end the thread."""
        self._thread.shutdown(cancel_futures=True)


def pieces(inputs: Tensor | Stored, size: int) -> Iterator[Tensor]:
    """Yield the inputs in order, `size` at a time; a file is read one piece ahead."""
    starts = range(0, len(inputs), size)
    if isinstance(inputs, Tensor):
        yield from (inputs[start : start + size] for start in starts)
        return

    def read(number: int) -> Tensor:
        return inputs[number * size : (number + 1) * size].read()

    with closing(Ahead(read, depth=1)) as ahead:
        yield from (ahead.take(number) for number in range(len(starts)))
