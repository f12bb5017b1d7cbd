"""What a part of the benchmark found: tables for the terminal, rows for a JSON file."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from opt_runner.bench import machine
from opt_runner.bench.settings import Settings
from opt_runner.records import write_whole

Row = dict[str, Any]


@dataclass
class Report:
    """n: samples asked of each row; a row's own count is in the row. notes: what a reader of the
    figures must know: how they were taken, what was left out and why."""

    n: int
    rows: list[Row] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first column is text and whose others are figures."""
    # Text, as rich would take what stands in square brackets for styles.
    made = Table(title=Text(title), title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    for position, heading in enumerate(headings):
        made.add_column(heading, justify="right" if position else "left")
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def verdict(met: bool | None) -> str:
    """A cell of a table: whether a limit is kept; None where there is no limit."""
    return "" if met is None else ("yes" if met else "NO")


def write(part: str, report: Report, settings: Settings, command: str) -> Path:
    """Write <out>/<part>.json: the rows, with all that is needed to read or repeat them."""
    content = {
        "part": part,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "quick": settings.quick,
        "n": report.n,
        "threads": settings.threads,
        **machine.describe(settings.hardware),
        "notes": report.notes,
        "rows": report.rows,
    }
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    path = settings.out / f"{part}.json"
    write_whole(path, text + "\n")
    return path
