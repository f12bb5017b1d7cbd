"""Signals: the first one ends the run after the step it is in, the second at once.

SIGINT and SIGTERM stop. Where a launcher (submitit) waits for SIGUSR1 or SIGUSR2, by which Slurm
announces pre-emption, these take the place of SIGTERM, which Slurm sends as well: the launcher is
told once the run is saved, and requeues it.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_PRE_EMPTION = (signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and has saved. Not an Exception: Hydra must not go on."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    def __reduce__(self) -> tuple[Any, ...]:
        # A launcher's worker sends it to its parent.
        return type(self), (self.signum,)


class StopRequest:
    """Which signal asked to stop, or None."""

    signum: int | None = None


def raise_on_sigterm() -> None:
    """Outside of a run's steps SIGTERM ends the program as SIGINT does: with its last words."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    signal.signal(signal.SIGTERM, stop)


@contextlib.contextmanager
def stop_requests(once: bool = True) -> Iterator[StopRequest]:
    """Within the block a first signal only sets the request's `signum`.

    once: the second signal acts as outside of the block; else it repeats the first, as where the
    processes of a run get it from the terminal and from what started them.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        if once:
            for one, handler in previous.items():
                signal.signal(one, handler)

    announced = [one for one in _PRE_EMPTION if callable(signal.getsignal(one))]
    expected = [signal.SIGINT, *(announced or [signal.SIGTERM])]
    previous = {one: signal.signal(one, ask) for one in expected}
    try:
        yield request
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)
        for one in announced:
            requeue = previous[one]
            if request.signum == one and callable(requeue):
                requeue(one, None)
