"""The tables of docs/results that have their records are what these records give."""

from pathlib import Path

import pytest

from opt_runner.records import stored
from opt_runner.report import writers
from opt_runner.report.tables import compare
from tests.report.conftest import fail, report

RESULTS = Path(__file__).parents[2] / "docs" / "results"
RECORDS = sorted(RESULTS.glob("*/records"))


@pytest.mark.parametrize("records", RECORDS, ids=[path.parent.name for path in RECORDS])
def test_the_records_give_the_published_table(records: Path) -> None:
    def rows(text: str) -> list[str]:
        start = text.index("| method |")
        return text[start : text.index("\n\n", start)].splitlines()

    (table,) = compare(stored.find([records], fail))
    made = writers.WRITERS["report.md"](report(table))
    assert rows(made) == rows((records.parent / "report.md").read_text())
