"""Weights & Biases: one W&B run for each run. Its errors never stop the training."""

import atexit
import logging
import netrc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from opt_runner.config.schema import Config, Tracking
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.records.result import Result

log = logging.getLogger(__name__)

SWEEP_VARIABLE = "OPT_RUNNER_SWEEP"  # the sweep's id, which launchers' child processes inherit


# The training waits for calls of W&B, but not longer than this.
_MOST_SECONDS = 120.0


class Tracker(Protocol):
    """A receiver of the rows and the result of one run."""

    def log(self, row: dict[str, Any]) -> None: ...
    def finish(self, result: Result) -> None: ...


class NoTracker:
    """The tracker of tracking=none: it does nothing, and wandb is not imported."""

    def log(self, row: dict[str, Any]) -> None: ...

    def finish(self, result: Result) -> None: ...


class WandbTracker:
    """A W&B run. An error in it ends the tracking with one line, and the training goes on."""

    def __init__(self, run: Any, screen: Screen) -> None:
        self._run = run
        self._screen = screen

    def log(self, row: dict[str, Any]) -> None:
        self._guard(lambda run: run.log(_flat(row), step=row["step"]))

    def finish(self, result: Result) -> None:
        def end(run: Any) -> None:
            run.summary.update(_flat(asdict(result)))
            run.finish(exit_code=0 if result.ended_well else 1)

        self._guard(end)
        self._run = None

    def abandon(self) -> None:
        """Mark the run failed in W&B, unless it has ended."""
        self._guard(lambda run: run.finish(exit_code=1))

    def _guard(self, action: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            with bounded():
                action(self._run)
        except Exception as error:
            self._run = None
            log.warning("W&B: %s; tracking of this run ends here", error, exc_info=True)
            self._screen.say(f"W&B failed ({_line(error)}); the record on disk is complete")
            tear_down()


@contextmanager
def bounded() -> Iterator[None]:
    """Kill W&B's service if it does not answer for two minutes, within the block.

    The waiting call then fails, and this raises TimeoutError instead.
    """
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
    with suppress(Exception, SystemExit), bounded():
        wandb.teardown()


@contextmanager
def start(
    config: Config, run_id: Callable[[], str], signature: str, screen: Screen
) -> Iterator[Tracker]:
    """Yield the tracker of one run. If the block raises, the run is marked as failed in W&B."""
    if config.tracking.name == "none":
        yield NoTracker()
        return
    content = {**config.content, "signature": signature}
    run = start_run(config, content, run_id(), config.title, screen)
    if run is None:
        yield NoTracker()
        return
    tracker = WandbTracker(run, screen)
    try:
        yield tracker
    finally:
        tracker.abandon()


def start_run(
    config: Config,
    content: dict[str, Any],
    run_id: str,
    title: str,
    screen: Screen,
    job_type: str | None = None,
) -> Any:
    """Return the W&B run in the first mode that starts, or None. Report each failure.

    content: W&B's config of the run. job_type: the method's name, unless given.
    """
    mode = _mode(config.tracking)
    try:
        with bounded():
            run = _init(config, content, run_id, title, job_type or config.method.name, mode)
    except Exception as error:
        log.warning("W&B did not start %s", mode, exc_info=True)
        tear_down()  # wandb's service keeps the id until it ends
        if mode != "online":
            screen.say(f"W&B did not start ({_line(error)}); the record on disk is complete")
            return None
        screen.say(f"W&B cannot be reached ({_line(error)}); going on offline")
        os.environ["WANDB_MODE"] = "offline"  # later runs do not try again
        return start_run(config, content, run_id, title, screen, job_type)
    atexit.unregister(tear_down)
    atexit.register(tear_down)  # the last registered function runs first: before wandb's
    if mode == "online":
        screen.say(f"W&B: {run.url}")
    return run


def upload_hint(tracking: Tracking, output_dir: str) -> str | None:
    """Return how to upload the offline runs below `output_dir`, or None if there are none."""
    folder = Path(output_dir) / "wandb"
    if tracking.name == "none" or _mode(tracking) != "offline":
        return None
    found = list(folder.glob("offline-run-*"))
    if not found:
        return None
    why = "" if _has_key() else ", no API key found"
    runs = "1 run" if len(found) == 1 else f"{len(found)} runs"
    which = found[0] if len(found) == 1 else folder / "offline-run-*"
    return f"W&B: {runs} offline{why}; to upload: wandb sync {which}"


def check(tracking: Tracking) -> None:
    """Raise UserError if W&B has to be online without a key: it would ask at the terminal."""
    if tracking.name == "wandb" and _mode(tracking) == "online" and not _has_key():
        raise UserError(
            "tracking is online but no W&B API key was found: run `wandb login`, set "
            "WANDB_API_KEY, or use tracking.mode=auto, tracking.mode=offline or tracking=none"
        )


def _init(
    config: Config, content: dict[str, Any], run_id: str, title: str, job_type: str, mode: Any
) -> Any:
    import wandb

    settings = wandb.Settings(silent=True, console="off", disable_git=True)
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        settings.init_timeout = 30
    return wandb.init(
        project=config.tracking.project,
        entity=config.tracking.entity,
        dir=config.output_dir,
        id=run_id,
        name=title,
        group=os.environ.get(SWEEP_VARIABLE),
        job_type=job_type,
        tags=list(config.tracking.tags),
        config=content,
        mode=mode,
        resume="allow",
        reinit="finish_previous",
        settings=settings,
    )


def _mode(tracking: Tracking) -> str:
    """Return online, offline or disabled. Without a key wandb would ask at the terminal."""
    if wanted := os.environ.get("WANDB_MODE"):
        return wanted
    if tracking.mode != "auto":
        return tracking.mode
    return "online" if _has_key() else "offline"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Return nested values under keys as `energy_excess/layer/1`, without those that are None."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}/{inner}": v for inner, v in _flat(value).items()}
        elif value is not None:
            flat[key] = value
    return flat


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
