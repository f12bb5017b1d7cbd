"""What all writers are given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from opt_runner.records.search import SearchRecord
from opt_runner.report.comparison import Comparison


@dataclass(frozen=True)
class Report:
    """pictures: of each table, by name. command: what made the report; date: when. searches: each
    with its picture, where there is one. tunings: the same of the searches of each fair comparison.
    conditions: pictures of tables that differ in the conditions of training."""

    tables: Sequence[Comparison]
    pictures: Sequence[Mapping[str, Figure]]
    title: str
    command: str
    date: str
    searches: Sequence[tuple[SearchRecord, Figure | None]] = ()
    tunings: Sequence[tuple[Sequence[SearchRecord], Figure | None]] = ()
    conditions: Sequence[Figure] = ()
