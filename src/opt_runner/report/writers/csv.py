"""The file report.csv: a line for each run, from which the tables are made."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from opt_runner.records.reading import printable
from opt_runner.records.result import Result
from opt_runner.report.comparison import before_and_after
from opt_runner.report.writers.report import OF_LAYERS, QUANTITIES, Report


def text(report: Report) -> str:
    """Return the file's content."""
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
