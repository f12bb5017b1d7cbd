"""report.csv: a line for each run, from which the tables are made."""

import csv
import io
from collections.abc import Iterator

from opt_runner.records.result import Result
from opt_runner.report.comparison import before_and_after
from opt_runner.report.writers.quantities import OF_LAYERS, QUANTITIES
from opt_runner.report.writers.report import Report


def text(report: Report) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    of_layers = [f"{name}_{when}" for name in OF_LAYERS for when in ("start", "end")]
    writer.writerow(
        ["table", "row", "method", "model", "dataset", "seed", "status", *QUANTITIES, *of_layers]
    )
    for table in report.tables:
        for row in table.rows:
            for run in row.runs:
                values = list(_values(run.result)) if run.result else []
                empty = [None] * (len(QUANTITIES) + len(of_layers) - len(values))
                writer.writerow(
                    [table.title, row.label, row.method, table.model, table.dataset,
                     run.seed, run.status, *values, *empty]
                )  # fmt: skip
    return file.getvalue()


def _values(result: Result) -> Iterator[float | None]:
    for name in QUANTITIES:
        yield getattr(result, name)
    for name, reduce in OF_LAYERS.items():
        yield from before_and_after(result, name, reduce) or (None, None)
