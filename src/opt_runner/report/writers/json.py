"""report.json: what the tables show, as numbers."""

import json
from dataclasses import asdict
from typing import Any

from opt_runner.report.columns import notes
from opt_runner.report.comparison import Comparison, Row
from opt_runner.report.statistics import Difference, Mean
from opt_runner.report.writers.quantities import OF_LAYERS, QUANTITIES
from opt_runner.report.writers.report import Report


def text(report: Report) -> str:
    content = {
        "title": report.title,
        "command": report.command,
        "date": report.date,
        "searches": [asdict(search) for search, _ in report.searches],
        "tunings": [[asdict(search) for search in searches] for searches, _ in report.tunings],
        "notes": notes(report.tables),
        "tables": [_table(table) for table in report.tables],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


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


def _row(table: Comparison, row: Row) -> dict[str, Any]:
    return {
        "row": row.label,
        "method": row.method,
        "best": row is table.best,
        "seeds": sorted(row.finished),
        "unfinished": table.unfinished(row),
        **{name: _numbers(row.mean(name)) for name in QUANTITIES},
        "minus_standard": _numbers(table.difference(row)),
        "corrected_p": table.corrected_p(row),
        **{
            f"{name}_{when}": _numbers(mean)
            for name, reduce in OF_LAYERS.items()
            for when, mean in zip(("start", "end"), row.layers(name, reduce), strict=True)
        },
    }


def _numbers(value: Mean | Difference | None) -> dict[str, Any] | None:
    return None if value is None else asdict(value)
