"""Jobs of runs that are not in the grid, or not any more."""

import itertools
from collections.abc import Mapping
from pathlib import Path

from opt_runner.console.screen import Screen
from opt_runner.dispatch.slurm import queue
from opt_runner.dispatch.slurm.options import Options
from opt_runner.dispatch.slurm.submission import live_job
from opt_runner.sweep.sweep import Sweep


def mind_others(options: Options, sweep: Sweep, screen: Screen) -> None:
    """Cancel the jobs of the experiment's runs that are not in this grid, or say that they are
    there. Raises UserError where Slurm does not answer."""
    with queue.answered():
        known = queue.jobs()
    config = sweep.runs[0].config
    mine = {run.record.directory.resolve() for run in sweep.runs}
    experiment = Path(config.output_dir) / config.experiment_name
    others = {
        live[0].id: path.parent
        for path in sorted(experiment.glob("*/*/*/*/job.json"))
        if path.parent.resolve() not in mine and (live := live_job(path, known))
    }
    if not others:
        return
    if not options.cancel_others:
        count = f"{len(others)} jobs" if len(others) > 1 else "1 job"
        screen.say(
            f"slurm: {count} of {experiment} not in this grid ({_some(others)}); "
            "hydra.launcher.cancel_others=true cancels such jobs"
        )
        return
    with queue.answered():
        queue.cancel(queue.shortest(others, known))
    for job_id, directory in others.items():
        screen.say(f"slurm: job {job_id} is cancelled: {directory} is not in this grid")


def _some(others: Mapping[str, Path], most: int = 3) -> str:
    names = [f"{job_id} {path.name}" for job_id, path in itertools.islice(others.items(), most)]
    return ", ".join([*names, "..."] if len(others) > most else names)
