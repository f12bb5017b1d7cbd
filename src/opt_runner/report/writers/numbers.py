"""The files report.json and report.csv: the numbers for other programs."""

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from statistics import fmean
from typing import Any

from opt_runner.records.reading import printable
from opt_runner.records.result import Result
from opt_runner.report.comparison import Comparison, Reduce, TableRow, before_and_after
from opt_runner.report.statistics import Difference, Mean
from opt_runner.report.writers.report import Report

# The fields of results in these files.
QUANTITIES = (
    "test_error", "best_test_error", "test_error_at_best", "validation_error",
    "best_validation_error", "train_loss", "train_error",
    "orthogonality_error", "trainable_parameters", "samples_per_second", "steps", "seconds",
)  # fmt: skip
# Fields with a value for each layer, before and after training, and the function that reduces them.
OF_LAYERS: dict[str, Reduce] = {"energy": sum, "half_space_excess": fmean, "largest_cosine": max}


def json_text(report: Report) -> str:
    """Return report.json: tables and searches."""
    content = {
        "title": report.title,
        "command": report.command,
        "date": report.date,
        "searches": [asdict(search) for search in report.searches],
        "tunings": [[asdict(search) for search in searches] for searches, _ in report.tunings],
        "notes": report.notes,
        "tables": [_table(section.table) for section in report.sections],
    }
    return json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _table(table: Comparison) -> dict[str, Any]:
    return {
        "title": table.title,
        "dataset": table.dataset,
        "model": table.model,
        "seeds": table.seeds,
        "power": table.power,
        "differs": table.differs,
        "rows": [_row(table, row) for row in table.rows],
    }


def _row(table: Comparison, row: TableRow) -> dict[str, Any]:
    return {
        "row": row.label,
        "method": row.method,
        "best": row is table.best,
        "seeds": sorted(row.finished),
        "unfinished": table.unfinished(row),
        **{name: _numbers(row.mean(name)) for name in QUANTITIES},
        "minus_standard": _numbers(table.differences.get(row)),
        "corrected_p": table.corrected.get(row),
        **{
            f"{name}_{when}": _numbers(mean)
            for name, reduce in OF_LAYERS.items()
            for when, mean in zip(("start", "end"), row.layers(name, reduce), strict=True)
        },
    }


def _numbers(value: Mean | Difference | None) -> dict[str, Any] | None:
    return None if value is None else vars(value)


def plain(value: Any) -> Any:
    """Return the value without NaN, infinity and halves of surrogate pairs, for JSON and UTF-8."""
    if isinstance(value, dict):
        return {printable(str(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return printable(value) if isinstance(value, str) else value


def csv_text(report: Report) -> str:
    """Return report.csv: a line for each run, from which the tables are made."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    of_layers = [f"{name}_{when}" for name in OF_LAYERS for when in ("start", "end")]
    values = [*QUANTITIES, *of_layers]
    writer.writerow(["table", "row", "method", "model", "dataset", "seed", "status", *values])
    for section in report.sections:
        table = section.table
        for row in table.rows:
            about = [table.title, row.label, row.method, table.model, table.dataset]
            for run in row.runs:
                found = list(_values(run.result)) if run.result else [None] * len(values)
                writer.writerow(map(_cell, [*about, run.seed, run.status, *found]))
    return file.getvalue()


def _values(result: Result) -> Iterator[float | None]:
    for name in QUANTITIES:
        yield getattr(result, name)
    for name, reduce in OF_LAYERS.items():
        yield from before_and_after(result, name, reduce) or (None, None)


def _cell(value: Any) -> Any:
    """Return a cell that no spreadsheet reads as a formula. Numbers stay numbers."""
    if not isinstance(value, str):
        return value
    value = printable(value)
    return f"'{value}" if value.lstrip().startswith(("=", "+", "-", "@")) else value
