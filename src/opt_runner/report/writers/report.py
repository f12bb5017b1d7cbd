"""The content of a report, as all writers get it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from opt_runner.records.search import SearchRecord
from opt_runner.report.columns import Sheet
from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.view import View


class Picture(NamedTuple):
    """A drawn picture. name: of its files. shows: its content in words."""

    name: str
    shows: str
    svg: bytes
    png: bytes


class Section(NamedTuple):
    """A table with its text and pictures.

    notes: only notes that no earlier section has. view: the rows that are drawn, None if none are.
    """

    table: Comparison
    sheet: Sheet
    notes: Sequence[str]
    pictures: Sequence[Picture]
    view: View | None = None


class Report(NamedTuple):
    """The content of a report.

    command: the command that makes this report again. conditions: pictures of tables that differ
    in the conditions of training. tunings: for each fair comparison its searches, with a picture if
    a trial has finished. searches: the other searches. remark: about missing pictures.
    folder: where it is written. refresh: seconds after which a browser reads the pages again, or 0.
    """

    title: str
    command: str
    date: str
    sections: Sequence[Section]
    conditions: Sequence[Picture]
    tunings: Sequence[tuple[Sequence[SearchRecord], Picture | None]]
    searches: Sequence[SearchRecord]
    remark: str
    folder: Path = Path()
    refresh: int = 0

    @property
    def notes(self) -> list[str]:
        """Return the notes of all tables, each once."""
        return [note for section in self.sections for note in section.notes]

    @property
    def pictures(self) -> Iterator[Picture]:
        for section in self.sections:
            yield from section.pictures
        yield from self.conditions
        yield from (picture for _, picture in self.tunings if picture)
