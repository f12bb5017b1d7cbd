"""Signals: the first one ends the run after the current step, the second one at once.

SIGINT, SIGTERM and SIGHUP (a closed terminal; ignored under nohup) stop a run.

In a Slurm job submitit waits for SIGUSR1 or SIGUSR2, which announce pre-emption and the time limit.
There these signals stop the run; once it has saved, submitit requeues the job. A SIGTERM in a job
means that Slurm kills it in some seconds and perhaps requeues it: the run saves and trains on.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PRE_EMPTION = (signal.SIGUSR1, signal.SIGUSR2)

Handler = Callable[[int, FrameType | None], Any] | signal.Handlers


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and has saved. Not an Exception, so that Hydra stops too."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker sends this exception to its launcher.
        return type(self), (self.signum,)


class StopRequest:
    """A request to stop a run.

    signum: the signal that asked to stop, or None. save: a signal asked to save and go on.
    During set-up a run has nothing to save, and the signal raises Interrupted at once.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.save = False
        self._raises = False
        self._alive = time.perf_counter()
        self._stopped = 0.0

    def clock(self) -> float:
        """Return a time in seconds that stands still while the process is stopped, as by Ctrl-Z.

        Call it after each step: when a stop began is known to the time since the last call.
        """
        self._alive = time.perf_counter()
        return self._alive - self._stopped

    def continued(self, signum: int, frame: FrameType | None) -> None:
        """Note that the process was stopped until now: the handler of SIGCONT."""
        now = time.perf_counter()
        self._stopped += now - self._alive
        self._alive = now

    def ask(self, signum: int) -> None:
        """Ask to stop, from a signal handler; a second signal changes nothing."""
        if self.signum is None:
            self.signum = signum
            if self._raises:
                self.raise_if_asked()

    def raise_if_asked(self) -> None:
        if self.signum is not None:
            raise Interrupted(self.signum)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise Interrupted at a signal, within the block."""
        before, self._raises = self._raises, True
        try:
            self.raise_if_asked()
            yield
        finally:
            self._raises = before


@contextlib.contextmanager
def answered(answers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Set these signal handlers within the block, and restore the old ones after it.

    When a terminal is closed, kernel and shell both send SIGHUP, so a second one is ignored; under
    nohup all are.
    """

    def hang_up(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_IGN)
        if callable(answer := answers[signal.SIGHUP]):
            answer(signum, frame)

    former = {
        one: signal.signal(one, hang_up if one == signal.SIGHUP and callable(answer) else answer)
        for one, answer in answers.items()
        if not _hung_up(one)
    }
    try:
        yield
    finally:
        for one, handler in former.items():
            if not _hung_up(one):
                signal.signal(one, handler)


def _hung_up(signum: int) -> bool:
    return signum == signal.SIGHUP and signal.getsignal(signum) is signal.SIG_IGN


def raised_signals() -> contextlib.AbstractContextManager[None]:
    """Let SIGTERM and SIGHUP raise Interrupted within the block, as SIGINT raises an exception.

    So a program removes half-written files and ends with its own message.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    return answered({signal.SIGTERM: stop, signal.SIGHUP: stop})


@contextlib.contextmanager
def stop_requests(once: bool = True) -> Iterator[StopRequest]:
    """Pass signals to the request, to stop or to save, within the block.

    once: a second signal has its usual effect. Otherwise it has none, because the processes of a
    run, and a launcher's worker, may get the same signal from the terminal and from the program
    that started them.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(signum: int, frame: FrameType | None) -> None:
        if once:
            for one, handler in previous.items():
                if one not in (signal.SIGHUP, signal.SIGCONT):
                    signal.signal(one, handler)
        request.ask(signum)

    def save(signum: int, frame: FrameType | None) -> None:
        request.save = True

    announced = [one for one in _PRE_EMPTION if callable(signal.getsignal(one))]
    answers = {signal.SIGINT: ask, signal.SIGTERM: save if announced else ask, signal.SIGHUP: ask}
    answers |= dict.fromkeys(announced, ask)
    answers[signal.SIGCONT] = request.continued
    previous = {one: signal.getsignal(one) for one in answers}
    try:
        with answered(answers):
            yield request
    finally:
        for one in announced:
            requeue = previous[one]
            if request.signum == one and callable(requeue):
                requeue(one, None)
