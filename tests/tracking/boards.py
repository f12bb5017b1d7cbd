"""The numbers that a record, and each tracker of its run, has."""

import csv
import json
from pathlib import Path

import pytest

from opt_runner.tracking import scalars

Values = dict[str, list[tuple[int, float]]]


def of_record(folder: Path) -> Values:
    """The numbers of a record, without step."""
    found: Values = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for key, value in scalars(row).items():
            found.setdefault(key, []).append((row["step"], value))
    del found["step"]
    return found


def of_csv(folder: Path) -> Values:
    found: Values = {}
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if value:
                    found.setdefault(key, []).append((int(row["step"]), float(value)))
    del found["step"]
    return found


def of_tensorboard(folder: Path) -> Values:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    return {
        key: [(one.step, one.value) for one in board.Scalars(key)]
        for key in board.Tags()["scalars"]
    }


def of_mlflow(folder: Path, uri: str) -> Values:
    from mlflow import MlflowClient

    client, own = MlflowClient(uri), (folder / "mlflow.txt").read_text().strip()
    keys = client.get_run(own).data.metrics
    return {k: [(m.step, m.value) for m in client.get_metric_history(own, k)] for k in keys}


def rows(values: Values) -> Values:
    return {k: v for k, v in values.items() if not k.startswith("final/")}


def close_to(values: Values) -> Values:
    """TensorBoard has single precision."""
    return {
        key: [(step, pytest.approx(value, rel=1e-6, nan_ok=True)) for step, value in column]
        for key, column in values.items()
    }
