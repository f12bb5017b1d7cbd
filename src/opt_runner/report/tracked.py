"""A sweep's tables and pictures as a run of their own in the sweep's W&B group."""

import io
import logging
from collections.abc import Sequence

from opt_runner.config.schema import Config
from opt_runner.console import wandb as tracking
from opt_runner.console.screen import Screen
from opt_runner.report import plots
from opt_runner.report.comparison import Comparison

log = logging.getLogger(__name__)


def log_summary(
    config: Config, sweep_id: str, comparisons: Sequence[Comparison], screen: Screen
) -> None:
    """The run `<sweep_id>-report`. Like all of W&B it may fail without harm: that is said."""
    if config.tracking.name == "none" or not comparisons:
        return
    content = {"experiment_name": config.experiment_name, "note": config.note}
    run = tracking.start_run(
        config, content, f"{sweep_id}-report", "report", screen, job_type="report"
    )
    if run is None:
        return
    try:
        with run:
            for comparison in comparisons:
                _log_one(run, comparison)
    except Exception as error:
        log.warning("W&B: %s", error, exc_info=True)
        screen.say(f"W&B did not take the report ({error}); opt-report makes it from disk")


def _log_one(run: object, comparison: Comparison) -> None:
    import wandb
    from PIL import Image

    shown = comparison.columns()
    table = wandb.Table(
        columns=[heading for heading, _ in shown],
        data=[[cell(comparison, row) for _, cell in shown] for row in comparison.rows],
    )
    content: dict[str, object] = {f"{comparison.title}/table": table}
    for name, figure in plots.drawn(comparison).items():
        file = io.BytesIO()
        plots.write(figure, file, "png")
        content[f"{comparison.title}/{name}"] = wandb.Image(Image.open(file))
    run.log(content)  # type: ignore[attr-defined]
