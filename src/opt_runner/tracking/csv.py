"""A table of the rows of metrics, for spreadsheets and pandas."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from opt_runner.files import no_links, write_whole
from opt_runner.records.result import Result
from opt_runner.tracking.rows import scalars


class CsvTracker:
    """metrics.csv in the record's folder, a line for each row of metrics."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        self._path = folder / "metrics.csv"
        self._columns: list[str] = []
        self._write(map(scalars, rows))

    def log(self, row: dict[str, Any]) -> None:
        values = scalars(row)
        if values.keys() <= {*self._columns}:
            with open(self._path, "a", opener=no_links) as file:
                file.write(self._lines([values]))
            return
        with self._path.open(newline="") as file:
            earlier = [*csv.DictReader(file)]
        self._write([*earlier, values])

    def finish(self, result: Result | None) -> None: ...

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the whole file, with a column for each key."""
        rows = [*rows]
        self._columns = [*dict.fromkeys(key for row in rows for key in row)]
        header = dict(zip(self._columns, self._columns, strict=True))
        write_whole(self._path, self._lines([header, *rows]) if rows else "")

    def _lines(self, rows: Iterable[Mapping[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(rows)
        return text.getvalue()
