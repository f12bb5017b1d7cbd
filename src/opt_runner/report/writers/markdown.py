"""The file report.md: the tables as Markdown."""

import re
from collections.abc import Iterable, Iterator

from opt_runner.records.reading import printable
from opt_runner.report.trials import settings
from opt_runner.report.writers.report import Report

# Markdown's own characters; underscores at the ends of words; beginnings of lists and bare links.
_SPECIAL = re.compile(
    r"[\\`*\[\]<>&|~$#@]|(?<![^\W_])_|_(?![^\W_])|^[-+=]|(?<=^\d)[.)]|(?<=:)/(?=/)|(?<=www)\."
)


def text(report: Report) -> str:
    """Return the file's content."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield from (f"# {escape(report.title)}", "")
    yield from (f"{report.date}. Command: {_code(report.command)}", "")
    for section in report.sections:
        table, sheet = section.table, section.sheet
        yield from (f"## {escape(table.title)}", "")
        for remark in table.remarks:
            yield from (escape(remark), "")
        yield from _head(sheet.headings)
        for row, cells in zip(table.rows, sheet.cells, strict=True):
            bold = "**" if row is table.best else ""
            yield _line(f"{bold}{escape(cell)}{bold}" for cell in cells)
        yield ""
    for searches, _ in report.tunings:
        yield from (f"## {escape(searches[0].name)}: where the settings came from", "")
        headings, rows = settings(searches)
        yield from _head(headings)
        yield from (_line(map(escape, row)) for row in rows)
        yield ""
    yield from (f"- {escape(note)}" for note in report.notes)


def _head(headings: Iterable[str]) -> Iterator[str]:
    cells = [escape(heading) for heading in headings]
    yield _line(cells)
    yield "|---" * len(cells) + "|"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape(text: str) -> str:
    """Return the text escaped for Markdown, on one line, without HTML, links or new cells."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(printable(text).split()))


def _code(text: str) -> str:
    """Return the text as code, between enough backticks."""
    words = " ".join(printable(text).split())
    fence = "`" * (max(map(len, re.findall("`+", words)), default=0) + 1)
    return f"{fence} {words} {fence}" if "`" in words else f"`{words}`"
