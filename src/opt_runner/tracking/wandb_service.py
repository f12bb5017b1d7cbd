"""The service of W&B, a process beside this one: it may hang or die, and no run waits for it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# The training waits for calls of W&B, but not longer than this.
_MOST_SECONDS = 120.0


@contextmanager
def service() -> Iterator[None]:
    """Call W&B in the block. If the block raises, the service ends, as a new run needs a new one.

    The service is killed if it does not answer for two minutes. The waiting call then fails, and
    this raises TimeoutError instead.
    """
    try:
        with _bounded():
            yield
    except Exception:
        tear_down()
        raise


@contextmanager
def _bounded() -> Iterator[None]:
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        for pid in _services():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(_MOST_SECONDS, expire)
    timer.daemon = True
    with suppress(RuntimeError):  # some Pythons start no thread while they end
        timer.start()
    try:
        yield
    except Exception as error:
        if expired.is_set():
            raise TimeoutError(f"no answer within {_MOST_SECONDS:.0f} s") from error
        raise
    finally:
        timer.cancel()


def _services() -> list[int]:
    """Return the processes of W&B's services that this process has started, if there is /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, _, rest = path.read_text(errors="replace").partition(" (")
            name, _, fields = rest.rpartition(") ")
            state, parent = fields.split()[:2]
            if "wandb" in name and int(parent) == os.getpid() and state != "Z":
                found.append(int(pid))
    return found


def tear_down() -> None:
    """End W&B's service, so that a run after this one gets a new one.

    It also runs at the end of the process, where wandb itself would wait without a limit and
    print a traceback if the service was killed.
    """
    import wandb

    # wandb raises SystemExit if its service was killed.
    with suppress(Exception, SystemExit), _bounded():
        wandb.teardown()
