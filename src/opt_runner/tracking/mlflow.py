"""MLflow: one MLflow run for each run, in a database of this folder or on a server."""

import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from opt_runner.config.schema import Config
from opt_runner.config.titles import of_sweep
from opt_runner.files import locked_where_possible, write_whole
from opt_runner.records.result import Result
from opt_runner.tracking.rows import final, hyperparameters, scalars

_ENDED = {"finished": "FINISHED", "pruned": "FINISHED", "interrupted": "KILLED"}


class MlflowTracker:
    """An MLflow run, whose id mlflow.txt in the record's folder keeps.

    MLflow deletes no value, so steps that it has are not sent again.

    uri: the store; None: MLFLOW_TRACKING_URI, else mlflow.db in the output folder.
    experiment: None: MLFLOW_EXPERIMENT_NAME, else the run's experiment_name.
    """

    def __init__(
        self,
        config: Config,
        title: str,
        folder: Path,
        rows: list[dict[str, Any]],
        uri: str | None = None,
        experiment: str | None = None,
    ) -> None:
        # MLflow would try for minutes, and the training waits.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it tells of a new database
        from mlflow import MlflowClient

        store = f"sqlite:///{Path(config.output_dir).absolute()}/mlflow.db"
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or store
        named = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or config.experiment_name
        self._logged: dict[str, int] = {}  # the last step of each metric
        # Two processes that make one database at once disturb each other.
        lock = locked_where_possible(Path(config.output_dir) / ".mlflow.lock")
        with lock if uri.startswith("sqlite:") else nullcontext():
            self._client = MlflowClient(uri)
            self._id = self._existing(folder / "mlflow.txt") or self._new(named, title, config)
        write_whole(folder / "mlflow.txt", self._id + "\n")
        for row in rows:
            self.log(row)

    def log(self, row: dict[str, Any]) -> None:
        self._send(scalars(row), row["step"])

    def finish(self, result: Result | None) -> None:
        if result is not None and result.status != "interrupted":
            self._send(final(result), result.steps)
        status = _ENDED.get(result.status, "FAILED") if result else "FAILED"
        self._client.set_terminated(self._id, status)

    def _existing(self, kept: Path) -> str | None:
        """Return the id of the record's own run, if the store has it, and set it running."""
        from mlflow.exceptions import MlflowException

        if not kept.is_file():
            return None
        own = kept.read_text().strip()
        try:
            metrics = self._client.get_run(own).data.metrics
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # another store
                return None
            raise
        for key in metrics:
            history = self._client.get_metric_history(own, key)
            self._logged[key] = max(metric.step for metric in history)
        self._client.update_run(own, "RUNNING")
        return own

    def _new(self, experiment: str, title: str, config: Config) -> str:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        try:
            number = self._client.create_experiment(experiment)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            existing = self._client.get_experiment_by_name(experiment)
            assert existing is not None
            number = existing.experiment_id
        tags = {"mlflow.note.content": config.note, "sweep": of_sweep()[0]}
        run = self._client.create_run(
            number, run_name=title, tags={k: v for k, v in tags.items() if v}
        )
        params = [Param(key, str(value)) for key, value in hyperparameters(config).items()]
        for begin in range(0, len(params), 100):  # more at once are refused
            self._client.log_batch(run.info.run_id, params=params[begin : begin + 100])
        return str(run.info.run_id)

    def _send(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        new = [
            Metric(key, value, now, step)
            for key, value in values.items()
            if key != "step" and step > self._logged.get(key, -1)
        ]
        if new:
            self._client.log_batch(self._id, metrics=new)
