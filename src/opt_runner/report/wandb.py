"""A sweep's tables and pictures in Weights & Biases: a run of their own in the sweep's group."""

import io
import logging
from collections.abc import Sequence
from typing import Any

from opt_runner.config.schema import Config
from opt_runner.console import wandb as tracking
from opt_runner.console.screen import Screen
from opt_runner.report.columns import columns
from opt_runner.report.comparison import Comparison

log = logging.getLogger(__name__)


def log_tables(config: Config, sweep_id: str, tables: Sequence[Comparison], screen: Screen) -> None:
    """Log them as the run `<sweep_id>-report`. A failure of W&B is told and does no harm."""
    if config.tracking.name == "none" or not tables:
        return
    content = {"experiment_name": config.experiment_name, "note": config.note}
    run = tracking.start_run(
        config, content, f"{sweep_id}-report", "report", screen, job_type="report"
    )
    if run is None:
        return
    try:
        with tracking.bounded(), run:
            for table in tables:
                run.log(_content(table))
    except Exception as error:
        log.warning("W&B: %s", error, exc_info=True)
        screen.say(f"W&B did not take the report ({error}); opt-report makes it from disk")
        tracking.tear_down()


def _content(table: Comparison) -> dict[str, Any]:
    import wandb
    from PIL import Image

    from opt_runner.report import figures
    from opt_runner.report.figures.style import as_bytes

    shown = columns(table)
    content: dict[str, Any] = {
        f"{table.title}/table": wandb.Table(
            columns=[column.heading for column in shown],
            data=[[column.text(table, row) for column in shown] for row in table.rows],
        )
    }
    for name, figure in figures.draw(table).items():
        picture = Image.open(io.BytesIO(as_bytes(figure, "png")))
        content[f"{table.title}/{name}"] = wandb.Image(picture)
    return content
