"""The files of a report, each with its writer, and pictures."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from matplotlib.figure import Figure

from opt_runner.files import write_whole
from opt_runner.records.search import SearchRecord, tunings
from opt_runner.report import figures
from opt_runner.report.columns import sheet
from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.canvas import as_bytes
from opt_runner.report.figures.dots import CONDITIONS, draw_conditions, families
from opt_runner.report.figures.search import TUNING, draw_tuning
from opt_runner.report.figures.view import View
from opt_runner.report.writers import explore, html, latex, markdown, numbers
from opt_runner.report.writers.report import Picture, Report, Section

WRITERS = {
    "report.md": markdown.text,
    "report.csv": numbers.csv_text,
    "report.json": numbers.json_text,
    "report.tex": latex.text,
    "report.html": html.text,
    "explore.html": explore.text,
}
_MOST = 6  # tables, and fair comparisons, that are drawn
_MOST_ROWS = 80  # of drawn tables together: a picture takes half a second for 25 rows
_PICTURE = re.compile(
    rf"({'|'.join([*figures.PICTURES, 'tuning', 'conditions'])})(-\d+)?\.(png|svg)"
)

T = TypeVar("T")


def collect(
    tables: Sequence[Comparison],
    title: str,
    command: str,
    searches: Sequence[SearchRecord] = (),
    fault: Callable[[str], None] = lambda line: None,
    folder: Path = Path(),
    columns: Sequence[str] = (),
    refresh: int = 0,
) -> Report:
    """Return the content of a report. Of many tables or fair comparisons only some are drawn.

    command: the command that makes this report again. fault: called with a line about each file of
    metrics that cannot be read. folder: where it will be written. columns: their names,
    see `sheet`. refresh: see `Report`.
    """
    views = [View(table, fault) for table in tables]
    rows = accumulate(len(table.rows) for table in tables)
    most = max(1, min(_MOST, sum(together <= _MOST_ROWS for together in rows)))
    drawn = [
        _draw(name, kind.shows, kind.draw, views, most) for name, kind in figures.PICTURES.items()
    ]
    sections: list[Section] = []
    known: set[str] = set()
    for place, (table, *pictures) in enumerate(zip(tables, *drawn, strict=True)):
        text = sheet(table, names=columns)
        new = [note for note in text.notes if note not in known]
        view = views[place] if place < most else None
        sections.append(Section(table, text, new, [one for one in pictures if one], view))
        known.update(new)
    stated = {row.method: row.colour for table in tables for row in table.rows}
    tuned = tunings(searches)
    tunings_ = _draw("tuning", TUNING, partial(draw_tuning, stated=stated), tuned)
    conditions = _draw("conditions", CONDITIONS, draw_conditions, families(tables))
    many = len(tables) > most or len(tuned) > _MOST
    return Report(
        title,
        command,
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        sections,
        [picture for picture in conditions if picture],
        [*zip(tuned, tunings_, strict=True)],
        [search for search in searches if not search.label],
        f"Drawn: {most} of {len(tables)} tables, and at most {_MOST} fair comparisons."
        if many
        else "",
        folder,
        refresh,
    )


def _draw(
    name: str,
    shows: str,
    draw: Callable[[T], Figure | None],
    every: Sequence[T],
    most: int = _MOST,
) -> list[Picture | None]:
    """Return the pictures of the first of these with their numbers; None if there is none."""
    found: list[Picture | None] = [None] * len(every)
    for place, one in enumerate(every[:most]):
        if figure := draw(one):
            suffix = f"-{place + 1}" if len(every) > 1 else ""
            svg, png = as_bytes(figure, "svg"), as_bytes(figure, "png")
            found[place] = Picture(name + suffix, shows, svg, png)
    return found


def write(report: Report) -> list[Path]:
    """Write all files into the report's folder, where they replace older ones. Return their paths.

    Raises CannotWrite, and OSError for a folder that cannot be made.
    """
    folder = report.folder
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: text(report).encode() for name, text in WRITERS.items()}
    for picture in report.pictures:
        files |= {f"{picture.name}.png": picture.png, f"{picture.name}.svg": picture.svg}
    older = list(folder.iterdir()) if (folder / "report.html").exists() else []
    for path in older:
        # Of an older report, which wrote both forms, it would look like one of these.
        ours = all(path.with_suffix(form) in older for form in (".png", ".svg"))
        if path.name not in files and _PICTURE.fullmatch(path.name) and ours:
            path.unlink()
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]
