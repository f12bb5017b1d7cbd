"""report.csv: a line for each run, from which the tables are made."""

import csv
import io

from opt_runner.report.writers.quantities import QUANTITIES
from opt_runner.report.writers.report import Report


def text(report: Report) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "row", "method", "model", "dataset", "seed", "status", *QUANTITIES])
    for table in report.tables:
        for row in table.rows:
            for run in row.runs:
                values = [getattr(run.result, name, None) for name in QUANTITIES]
                writer.writerow(
                    [table.title, row.label, row.method, table.model, table.dataset,
                     run.seed, run.status, *("" if v is None else v for v in values)]
                )  # fmt: skip
    return file.getvalue()
