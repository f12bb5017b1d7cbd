"""Weights & Biases: one W&B run for each run. Its errors never stop the training."""

import atexit
import functools
import io
import logging
import os
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from opt_runner.config.schema import Config, Tracking
from opt_runner.console.screen import Screen
from opt_runner.console.titles import of_sweep, title
from opt_runner.console.wandb_service import bounded, tear_down
from opt_runner.errors import UserError
from opt_runner.records.result import Result
from opt_runner.records.stored import StoredRun

log = logging.getLogger(__name__)

_PROJECT = "opt-runner"


class Tracker(Protocol):
    """A receiver of the rows and the result of one run."""

    def log(self, row: dict[str, Any]) -> None: ...
    def finish(self, result: Result) -> None: ...


class NoTracker:
    """The tracker of tracking=none: it does nothing, and wandb is not imported."""

    def log(self, row: dict[str, Any]) -> None: ...

    def finish(self, result: Result) -> None: ...


class WandbTracker:
    """A W&B run. An error in it ends the tracking with one line, and the training goes on.

    A quantity of every layer is a series of its mean; at the end one panel shows all layers.
    """

    def __init__(self, run: Any, screen: Screen) -> None:
        self.failed = False
        self._run = run
        self._screen = screen
        self._layers: dict[str, list[tuple[int, dict[str, float]]]] = defaultdict(list)

    def log(self, row: dict[str, Any]) -> None:
        content = {k: v for k, v in row.items() if v is not None and not isinstance(v, dict)}
        for name, layers in _by_layer(row):
            self._layers[name].append((row["step"], layers))
            content[f"{name}/mean"] = fmean(layers.values())
        self._guard(lambda run: run.log(content, step=row["step"]))

    def finish(self, result: Result) -> None:
        def end(run: Any) -> None:
            import wandb

            panels = {}
            for key, rows in self._layers.items():
                steps, names = [step for step, _ in rows], [*rows[0][1]]
                series = [[layers.get(name) for _, layers in rows] for name in names]
                panels[f"{key}/layers"] = wandb.plot.line_series(
                    steps, series, names, f"{key} of layers", "step"
                )
            run.log(panels)
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
            self._run, self.failed = None, True
            log.warning("W&B: %s; tracking of this run ends here", error, exc_info=True)
            self._screen.say(f"W&B failed ({_line(error)}); the record on disk is complete")
            tear_down()


@contextmanager
def start(
    config: Config, run_id: Callable[[], str], signature: str, screen: Screen
) -> Iterator[Tracker]:
    """Yield the tracker of one run. If the block raises, the run is marked as failed in W&B."""
    if config.tracking.name == "none":
        yield NoTracker()
        return
    content = {**config.content, "signature": signature}
    own_id = os.environ["WANDB_RUN_ID"] if has_agent() else run_id()
    run = start_run(config, content, own_id, title(config), screen)
    if run is None:
        yield NoTracker()
        return
    tracker = WandbTracker(run, screen)
    try:
        yield tracker
    finally:
        tracker.abandon()


def send(run: StoredRun, config: Config, screen: Screen) -> bool:
    """Send a record that exists to W&B: its rows, and its result if it has one.

    Returns False if W&B did not take all of it, which the screen then says.
    """
    with start(config, run.record.wandb_id, run.signature, screen) as tracker:
        for row in run.record.read_metrics():
            tracker.log(row)
        if run.result is not None:
            tracker.finish(run.result)
        return isinstance(tracker, WandbTracker) and not tracker.failed


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
    folder = Path(_folder(output_dir)) / "wandb"
    if tracking.name == "none" or _mode(tracking) != "offline":
        return None
    found = list(folder.glob("offline-run-*"))
    if not found:
        return None
    why = "" if _logged_in() else ", not logged in"
    runs = "1 run" if len(found) == 1 else f"{len(found)} runs"
    which = found[0] if len(found) == 1 else folder / "offline-run-*"
    return f"W&B: {runs} offline{why}; to upload: wandb sync {which}"


def check(tracking: Tracking) -> None:
    """Raise UserError if W&B has to be online without a login: it would ask at the terminal."""
    if tracking.name == "wandb" and _mode(tracking) == "online" and not _logged_in():
        raise UserError(
            "tracking is online but wandb is not logged in: run `wandb login`, set "
            "WANDB_API_KEY, or use tracking.mode=auto, tracking.mode=offline or tracking=none"
        )


def _init(
    config: Config, content: dict[str, Any], run_id: str, title: str, job_type: str, mode: Any
) -> Any:
    import wandb

    # git: wandb looks for it in its own folder, which is not the code's.
    settings = wandb.Settings(silent=True, console="off", disable_git=True)
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        settings.init_timeout = 30
    return wandb.init(
        project=config.tracking.project or os.environ.get("WANDB_PROJECT", _PROJECT),
        entity=config.tracking.entity,
        dir=_folder(config.output_dir),
        id=run_id,
        name=os.environ.get("WANDB_NAME", title),
        notes=config.note or None,
        group=os.environ.get("WANDB_RUN_GROUP") or of_sweep()[0],
        job_type=job_type,
        tags=[*config.tracking.tags, *filter(None, os.environ.get("WANDB_TAGS", "").split(","))],
        config={**content, **_commit()},
        mode=mode,
        resume="allow",
        reinit="finish_previous",
        settings=settings,
    )


@functools.cache
def _commit() -> dict[str, Any]:
    """Return the commit of the folder that the command runs in, if it is a git repository.

    It is asked for once: the code that runs is that of the process's start.
    """
    found = []
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain"]):
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            return {}
        if done.returncode:
            return {}
        found.append(done.stdout.strip())
    return {"git_commit": found[0], "git_dirty": bool(found[1])}


def _mode(tracking: Tracking) -> str:
    """Return online, offline or disabled. Without a login wandb would ask at the terminal."""
    if wanted := os.environ.get("WANDB_MODE"):
        return "offline" if wanted == "dryrun" else wanted
    if tracking.mode != "auto":
        return tracking.mode
    return "online" if _logged_in() else "offline"


@functools.cache
def _logged_in() -> bool:
    """Return True if wandb finds credentials: a key, a settings file or an identity token."""
    import wandb

    with redirect_stderr(io.StringIO()):  # it tells which file it reads
        wandb.setup(settings=wandb.Settings(silent=True))
        return wandb.login(prompt=False, verify=False)


def _folder(output_dir: str) -> str:
    return os.environ.get("WANDB_DIR", output_dir)


def has_agent() -> bool:
    """Return True if an agent of `wandb sweep` started this process and waits for a result."""
    return bool(os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"))


def _by_layer(row: dict[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield quantities of layers as name and {layer: value}, without values that are None.

    {layer: {s: value}}, as the energy has, is a quantity `NAME/s` for each s.
    """
    for name, layers in row.items():
        if not isinstance(layers, dict):
            continue
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for layer, value in layers.items():
            of_layer = value.items() if isinstance(value, dict) else [("", value)]
            for suffix, one in of_layer:
                if isinstance(one, int | float):
                    found[f"{name}/{suffix}".removesuffix("/")][layer] = one
        yield from found.items()


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
