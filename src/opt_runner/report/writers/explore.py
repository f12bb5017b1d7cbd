"""The file explore.html: curves, scatter plots and tables of all runs, to explore in a browser.

The page loads nothing: plotly (charts) and DataTables (tables, from itables) are inside, and so are
the numbers. `report.html` is the same report without scripts, as static tables and pictures.
"""

import os
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from opt_runner.config.schema import as_typed
from opt_runner.report.columns import sheet
from opt_runner.report.comparison import Comparison, TableRow
from opt_runner.report.figures.style import styles
from opt_runner.report.figures.view import View
from opt_runner.report.tables import differing_keys
from opt_runner.report.writers.html import environment
from opt_runner.report.writers.numbers import plain
from opt_runner.report.writers.report import Report, Section

_POINTS = 200_000  # of all curves together, so that the page stays below 10 MB
_FEWEST, _MOST = 12, 200  # points of a curve
_NAMES = {"method.name", "method._target_", "optimizer.name", "optimizer._target_"}
_OF_ROWS = ("method", "minus standard", "p", "n")  # columns that say nothing about one run


def text(report: Report) -> str:
    """Return the file's content."""
    views = [section.view for section in report.sections if section.view]
    curves = sum(len(of) for view in views for one in view.runs for _, of in one)
    points = max(_FEWEST, min(_MOST, _POINTS // max(1, curves)))
    content = [_section(section, report.folder, points) for section in report.sections]
    return environment().get_template("explore.html.j2").render(
        report=report,
        # No text of a record can end the element that holds the numbers.
        content=dumps(plain(content), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        .replace("<", "\\u003c"),
        plotly=_kept("plotly", "package_data/plotly.min.js").replace("</script", "<\\/script"),
        tables=b64encode(_kept("itables", "html/dt_bundle.js").encode()).decode(),
        tables_style=_kept("itables", "html/dt_bundle.css"),
    )  # fmt: skip


@cache
def _kept(package: str, name: str) -> str:
    """Return a file of an installed package. The package itself is slow to import."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / name).read_text(encoding="utf-8")


def _section(section: Section, folder: Path, points: int) -> dict[str, Any]:
    table = section.table
    runs = [(place, run) for place, row in enumerate(table.rows) for run in row.runs]
    keys = sorted(differing_keys([run.method_keys for _, run in runs]) - _NAMES)
    headings, cells = _of_runs(table)
    first = (table.baseline or table.rows[0]).runs[0]
    return {
        "title": table.title,
        "remarks": table.remarks,
        "headings": section.sheet.headings,
        "cells": section.sheet.cells,
        "best": table.rows.index(table.best) if table.best else None,
        "notes": section.sheet.notes,
        "rows": [
            {"label": row.label, "colour": look.colour, "dash": _dash(look.dashes)}
            for row, look in zip(table.rows, styles(table.rows), strict=True)
        ],
        "numbers": headings,
        "keys": keys,
        "runs": [
            [
                place,
                run.seed,
                run.status,
                texts,
                [as_typed(run.method_keys.get(key, "")) for key in keys],
                os.path.relpath(run.record.directory, folder),
                run.record.wandb_url(),
            ]
            for (place, run), texts in zip(runs, cells, strict=True)
        ],
        "config": yaml.safe_dump(first.config, sort_keys=False, allow_unicode=True),
        "config_of": f"{first.method}, seed {first.seed}",
        "curves": _curves(section.view, points) if section.view else {},
    }


def _of_runs(table: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the cells of a table with a row for each run."""
    rows = [TableRow(row.label, [run]) for row in table.rows for run in row.runs]
    text = sheet(Comparison(table.dataset, table.model, table.differs, rows))
    kept = [place for place, column in enumerate(text.columns) if column.name not in _OF_ROWS]
    cells = [[cells[place] for place in kept] for cells in text.cells]
    return [text.headings[place] for place in kept], cells


def _curves(view: View, points: int) -> dict[str, Any]:
    """Return {title: {place of a row: [[seed, steps, values, seconds or None], ...]}}."""
    places = {row: place for place, row in enumerate(view.table.rows)}
    found: dict[str, dict[int, list[Any]]] = {}
    for row, runs in zip(view.rows, view.runs, strict=True):
        for run, quantities in runs:
            seconds = quantities.get("seconds", {})
            for name, values in quantities.items():
                if name == "seconds" or len(values) < 2:
                    continue
                steps = _thinned([*values], points)
                found.setdefault(view.title(name), {}).setdefault(places[row], []).append(
                    [run.seed, steps, [_short(values[step]) for step in steps],
                     _at(steps, seconds)]
                )  # fmt: skip
    return found


def _at(steps: Sequence[int], seconds: dict[int, float]) -> list[float] | None:
    """Return the seconds of training at these steps, interpolated; None if they are unknown."""
    if not seconds:
        return None
    return [_short(at) for at in np.interp(steps, [0, *seconds], [0.0, *seconds.values()])]


def _thinned(steps: list[int], points: int) -> list[int]:
    """Return at most `points` of the steps, evenly, with the first and the last."""
    if len(steps) <= points:
        return steps
    return [steps[round(k * (len(steps) - 1) / (points - 1))] for k in range(points)]


def _dash(dashes: Any) -> str:
    """Return matplotlib's dashes as plotly's: lengths in pixels."""
    return "solid" if dashes == "solid" else ",".join(f"{2 * length:g}px" for length in dashes[1])


def _short(value: float) -> float:
    """Return a number in six digits: more would double the page and are in the records."""
    return float(f"{value:.6g}")
