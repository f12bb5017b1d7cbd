"""SIGINT and SIGTERM: the first one ends the cell after the step it is in, the second at once."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A cell was asked to stop and has saved. Not an Exception: Hydra must not go on."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Which signal asked to stop, or None."""

    signum: int | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block a first SIGINT or SIGTERM only sets the request's `signum`."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        for one, handler in previous.items():
            signal.signal(one, handler)

    previous = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)
