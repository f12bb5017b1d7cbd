"""Weights & Biases: one W&B run for each run."""

import atexit
import functools
import io
import logging
import os
import shlex
import subprocess
from collections import defaultdict
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opt_runner.config.schema import Config, Tracking
from opt_runner.config.titles import of_sweep
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError, counted, first_line
from opt_runner.files import write_whole
from opt_runner.records.record import Record
from opt_runner.records.result import Result
from opt_runner.tracking.rows import by_layer, flat, scalars
from opt_runner.tracking.wandb_service import service, tear_down

log = logging.getLogger(__name__)


class WandbTracker:
    """A W&B run, online or, if that fails, offline.

    A quantity of every layer is a series of its mean; at the end one panel shows all layers.
    """

    def __init__(
        self,
        config: Config,
        signature: str,
        title: str,
        folder: Path,
        rows: list[dict[str, Any]],
        screen: Screen,
    ) -> None:
        own_id = os.environ["WANDB_RUN_ID"] if has_agent() else Record(folder).wandb_id()
        content = {**config.content, "signature": signature}
        self._run = start_run(config, content, own_id, title, screen)
        if self._run.url:
            write_whole(Record(folder).wandb, f"{own_id}\n{self._run.url}\n")
        self._layers: dict[str, list[tuple[int, dict[str, float]]]] = defaultdict(list)
        for row in rows:
            self._keep_layers(row)

    def log(self, row: dict[str, Any]) -> None:
        self._keep_layers(row)
        with service():
            self._run.log(scalars(row), step=row["step"])

    def finish(self, result: Result | None) -> None:
        with service():
            if result is not None:
                self._run.log(self._panels())
                self._run.summary.update(flat(asdict(result)))
            self._run.finish(exit_code=0 if result is not None and result.ended_well else 1)

    def _keep_layers(self, row: dict[str, Any]) -> None:
        for name, layers in by_layer(row):
            self._layers[name].append((row["step"], layers))

    def _panels(self) -> dict[str, Any]:
        import wandb

        panels = {}
        for key, rows in self._layers.items():
            steps, names = [step for step, _ in rows], [*rows[0][1]]
            series = [[layers.get(name) for _, layers in rows] for name in names]
            panels[f"{key}/layers"] = wandb.plot.line_series(
                steps, series, names, f"{key} of layers", "step"
            )
        return panels


def start_run(
    config: Config,
    content: dict[str, Any],
    run_id: str,
    title: str,
    screen: Screen,
    job_type: str | None = None,
) -> Any:
    """Return the W&B run, online if W&B can be reached, and say if it cannot.

    content: W&B's config of the run. job_type: the method's name, unless given.
    """
    import wandb

    mode: Any = _mode(config.tracking)
    # git: wandb looks for it in its own folder, which is not the code's.
    settings = wandb.Settings(silent=True, console="off", disable_git=True)
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        settings.init_timeout = 30
    tags = filter(None, os.environ.get("WANDB_TAGS", "").split(","))
    try:
        with service():  # which keeps the id until it ends
            run = wandb.init(
                project=config.tracking.project or os.environ.get("WANDB_PROJECT", "opt-runner"),
                entity=config.tracking.entity,
                dir=_folder(config.output_dir),
                id=run_id,
                name=os.environ.get("WANDB_NAME", title),
                notes=config.note or None,
                group=os.environ.get("WANDB_RUN_GROUP") or of_sweep()[0],
                job_type=job_type or config.method.name,
                tags=[*config.tracking.tags, *tags],
                config={**content, **_commit()},
                mode=mode,
                resume="allow",
                reinit="finish_previous",
                settings=settings,
            )
    except Exception as error:
        if mode != "online":
            raise
        log.warning("W&B did not start online", exc_info=True)
        screen.say(f"W&B cannot be reached ({first_line(error)}); going on offline")
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
    if "wandb" not in tracking.trackers or _mode(tracking) != "offline":
        return None
    found = list(folder.glob("offline-run-*"))
    if not found:
        return None
    why = "" if _logged_in() else ", not logged in"
    name = found[0].name if len(found) == 1 else "offline-run-*"
    which = f"{shlex.quote(str(folder))}/{name}"
    return f"W&B: {counted(len(found), 'run')} offline{why}; to upload: wandb sync {which}"


def check(tracking: Tracking) -> None:
    """Raise UserError if W&B has to be online without a login: it would ask at the terminal."""
    if "wandb" in tracking.trackers and _mode(tracking) == "online" and not _logged_in():
        raise UserError(
            "tracking is online but wandb is not logged in: run `wandb login`, set "
            "WANDB_API_KEY, or use tracking.mode=auto, tracking.mode=offline or tracking=none"
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
