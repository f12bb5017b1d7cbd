"""A sweep's tables and pictures as a run of their own in Weights & Biases."""

import io
import logging
from collections.abc import Sequence
from typing import Any

from opt_runner.config.schema import Config
from opt_runner.console.screen import Screen
from opt_runner.records.reading import printable
from opt_runner.report.columns import sheet
from opt_runner.report.comparison import Comparison
from opt_runner.tracking import wandb as tracking
from opt_runner.tracking.wandb_service import service

log = logging.getLogger(__name__)


def log_tables(config: Config, sweep_id: str, tables: Sequence[Comparison], screen: Screen) -> None:
    """Log the tables as the run `<sweep_id>-report`. If W&B fails, print a message."""
    if "wandb" not in config.tracking.trackers or not tables:
        return
    content = {"experiment_name": config.experiment_name, "note": config.note}
    try:
        run = tracking.start_run(
            config, content, f"{sweep_id}-report", "report", screen, job_type="report"
        )
        with service(), run:
            for table in tables:
                run.log(_content(table))
    except Exception as error:
        log.warning("W&B: %s", error, exc_info=True)
        screen.say(f"W&B did not take the report ({error}); opt-report makes it from disk")


def _content(table: Comparison) -> dict[str, Any]:
    import wandb
    from PIL import Image

    from opt_runner.report import figures
    from opt_runner.report.figures.canvas import as_bytes
    from opt_runner.report.figures.view import View

    text, title = sheet(table), printable(table.title)
    data = [[*map(printable, cells)] for cells in text.cells]
    content: dict[str, Any] = {f"{title}/table": wandb.Table(columns=[*text.headings], data=data)}
    for name, figure in figures.draw(View(table)).items():
        picture = Image.open(io.BytesIO(as_bytes(figure, "png")))
        content[f"{title}/{name}"] = wandb.Image(picture)
    return content
