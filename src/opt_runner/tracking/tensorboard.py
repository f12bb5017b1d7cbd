"""TensorBoard: curves, live, and a table of hyperparameters with the numbers of the results."""

import time
from pathlib import Path
from typing import Any

from opt_runner.config.schema import Config
from opt_runner.records.result import Result
from opt_runner.tracking.rows import final, hyperparameters, scalars


class TensorBoardTracker:
    """Event files in the record's folder, whose path is the run's name in TensorBoard."""

    def __init__(self, config: Config, folder: Path, rows: list[dict[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        files = list(folder.glob("events.out.tfevents.*"))
        if files and max(map(_begun_at, files)) >= time.time():
            # The clock went back, and TensorBoard would read the new file before these.
            for path in files:
                path.unlink()
            files = []
        # TensorBoard forgets this step and all after it.
        purge = rows[-1]["step"] + 1 if rows and files else 0
        self._config = config
        self._writer = SummaryWriter(folder, purge_step=purge)
        for row in rows if not files else []:
            self.log(row)

    def log(self, row: dict[str, Any]) -> None:
        for name, value in scalars(row).items():
            if name != "step":
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()  # a row that the checkpoint counts must outlive a kill

    def finish(self, result: Result | None) -> None:
        if result is not None and result.status != "interrupted":
            # run_name: "." is this folder; else the run would have a second name.
            self._writer.add_hparams(
                hyperparameters(self._config), final(result), run_name=".",
                global_step=result.steps,
            )  # fmt: skip
        self._writer.close()


def _begun_at(path: Path) -> float:
    """Return the time in the name of an event file, in seconds, by which TensorBoard sorts them."""
    seconds = path.name.split(".")[3]
    return float(seconds) if seconds.isdigit() else 0.0
