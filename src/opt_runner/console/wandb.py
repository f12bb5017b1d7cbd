"""Weights & Biases: one of its runs for each of ours, never in the way of the training."""

import logging
import netrc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from opt_runner.config.schema import Config, Tracking
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.records.result import Result

log = logging.getLogger(__name__)

SWEEP_VARIABLE = "OPT_RUNNER_SWEEP"  # the sweep's id, for launchers' child processes too


class Tracker(Protocol):
    def log(self, row: dict[str, Any]) -> None: ...
    def finish(self, result: Result) -> None: ...


class NoTracker:
    """tracking=none: the record on disk is all, and wandb is not imported."""

    def log(self, row: dict[str, Any]) -> None:
        pass

    def finish(self, result: Result) -> None:
        pass


class WandbTracker:
    """A W&B run. Whatever goes wrong in it is a warning, once; the training goes on."""

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

    def _guard(self, action: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            log.warning("W&B: %s; tracking of this run ends here", error, exc_info=True)
            self._screen.say(f"W&B failed ({error}); the record on disk is complete")
            self._run = None


@contextmanager
def start(
    config: Config, run_id: Callable[[], str], signature: str, screen: Screen
) -> Iterator[Tracker]:
    """The tracker of one run. A run that raises is marked failed in W&B as well."""
    if config.tracking.name == "none":
        yield NoTracker()
        return
    content = {**config.content, "signature": signature}
    run = start_run(config, content, run_id(), config.title, screen)
    if run is None:
        yield NoTracker()
        return
    import wandb

    try:
        yield WandbTracker(run, screen)
    finally:
        if wandb.run is not None:
            wandb.finish(exit_code=1)


def start_run(
    config: Config,
    content: dict[str, Any],
    run_id: str,
    title: str,
    screen: Screen,
    job_type: str | None = None,
) -> Any:
    """The W&B run in the first mode that starts, or None; what does not start is told.

    content: W&B's config of the run. job_type: the method's name, unless given.
    """
    import wandb

    mode = _mode(config.tracking)
    try:
        run = _init(config, content, run_id, title, job_type or config.method.name, mode)
    except Exception as error:
        log.warning("W&B did not start %s", mode, exc_info=True)
        if mode != "online":
            screen.say(f"W&B did not start ({_line(error)}); the record on disk is complete")
            return None
        screen.say(f"W&B cannot be reached ({_line(error)}); going on offline")
        # The id is taken in wandb's service until that ends. The runs after this one do not try.
        wandb.teardown()
        os.environ["WANDB_MODE"] = "offline"
        return start_run(config, content, run_id, title, screen, job_type)
    if mode == "online":
        screen.say(f"W&B: {run.url}")
    return run


def upload_hint(tracking: Tracking, output_dir: str) -> str | None:
    """How to upload what lies offline below `output_dir`, or None where nothing does."""
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
    """Raise UserError where W&B is to be online and has no key: it would ask at the terminal."""
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
    """online, offline or disabled. wandb asks at the terminal where it is online without a key."""
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
    """Nested values as `energy_excess/layer/1`, and without what is not there."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}/{inner}": v for inner, v in _flat(value).items()}
        elif value is not None:
            flat[key] = value
    return flat


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
