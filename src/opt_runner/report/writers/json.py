"""The file report.json: the tables and searches as numbers."""

import json
import math
from dataclasses import asdict
from typing import Any

from opt_runner.records.reading import printable
from opt_runner.report.comparison import Comparison, TableRow
from opt_runner.report.statistics import Difference, Mean
from opt_runner.report.writers.report import OF_LAYERS, QUANTITIES, Report


def text(report: Report) -> str:
    """Return the file's content."""
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
