"""A report's files, a writer each: report.md, .csv, .json, .tex and .html, and the pictures."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from matplotlib.figure import Figure

from opt_runner.files import write_whole
from opt_runner.records.search import SearchRecord, tunings
from opt_runner.report import figures
from opt_runner.report.comparison import Comparison
from opt_runner.report.figures import conditions, search, tuning
from opt_runner.report.figures.style import save
from opt_runner.report.writers import csv, html, json, latex, markdown
from opt_runner.report.writers.report import Report

WRITERS = {
    "report.md": markdown.text,
    "report.csv": csv.text,
    "report.json": json.text,
    "report.tex": latex.text,
    "report.html": html.text,
}


def write(
    tables: Sequence[Comparison],
    folder: Path,
    title: str,
    command: str,
    searches: Sequence[SearchRecord] = (),
) -> list[Path]:
    """Write all files into `folder`, in place of a former report's, and return their paths.

    command: what makes this report. Raises CannotWrite, and OSError for a folder that cannot be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    pictures_of = [figures.draw(table) for table in tables]
    searched = [(one, search.draw(one)) for one in searches if not one.label]
    stated = {row.method: row.colour for table in tables for row in table.rows}
    tuned = [(ones, tuning.draw(ones, stated)) for ones in tunings(searches)]
    under = [conditions.draw(family) for family in conditions.families(tables)]
    report = Report(tables, pictures_of, title, command, date, searched, tuned, under)
    written = []
    for name, text in WRITERS.items():
        write_whole(folder / name, text(report))
        written.append(folder / name)
    _remove_former_pictures(folder)
    for number, pictures in enumerate(report.pictures, 1):
        suffix = f"-{number}" if len(tables) > 1 else ""
        for name, figure in pictures.items():
            written += save(figure, folder / f"{name}{suffix}")
    others: dict[str, list[Figure | None]] = {
        "search": [one for _, one in searched],
        "tuning": [one for _, one in tuned],
        "conditions": list(report.conditions),
    }
    for name, drawn in others.items():
        for number, picture in enumerate(drawn, 1):
            if picture is not None:
                suffix = f"-{number}" if len(drawn) > 1 else ""
                written += save(picture, folder / f"{name}{suffix}")
    return written


def _remove_former_pictures(folder: Path) -> None:
    """Those of a former report with more tables would stay, and look like this one's."""
    ours = re.compile(
        rf"({'|'.join([*figures.PICTURES, 'search', 'tuning', 'conditions'])})(-\d+)?\.(png|svg)"
    )
    for path in folder.iterdir():
        if ours.fullmatch(path.name):
            path.unlink()
