"""The files of a report for other programs and other papers."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from opt_runner.report import writers
from opt_runner.report.comparison import Comparison
from opt_runner.report.writers.latex import text as latex
from tests.report.conftest import ERRORS, SEEDS, Tables, Write, report


def test_csv_has_a_line_a_run(table: Comparison) -> None:
    rows = list(csv.DictReader(writers.WRITERS["report.csv"](report(table)).splitlines()))
    assert len(rows) == len(ERRORS) * len(SEEDS) + 2
    first = rows[0]
    result = table.rows[0].finished[0]
    assert (first["method"], first["seed"], first["status"]) == ("standard", "0", "finished")
    assert float(first["test_error"]) == result.test_error
    assert float(first["energy_start"]) == 2000.0
    assert float(first["half_space_excess_start"]) == -0.25
    assert float(first["largest_cosine_end"]) > float(first["largest_cosine_start"]) == 0.4
    (failed,) = (row for row in rows if row["status"] == "failed")
    assert failed["test_error"] == failed["energy_start"] == failed["largest_cosine_end"] == ""
    assert None not in failed.values(), "every line has every column"


def test_json_has_what_tables_show_as_numbers(table: Comparison) -> None:
    content = json.loads(writers.WRITERS["report.json"](report(table)))
    (only,) = content["tables"]
    rows = {row["method"]: row for row in only["rows"]}
    assert list(rows) == [row.method for row in table.rows]
    values = table.rows[0].values("test_error")
    assert rows["standard"]["test_error"]["mean"] == pytest.approx(fmean(values.values()))
    assert rows["standard"]["minus_standard"] is None
    assert rows["gs"]["minus_standard"]["n"] == 3
    assert rows["standard"]["half_space_excess_start"]["mean"] == 0.25
    assert rows["hr"]["unfinished"] == {"failed": [0], "missing": [1, 2]}
    assert [row["method"] for row in only["rows"] if row["best"]] == ["cayley"]


def test_markdown_has_a_table_that_no_cell_breaks(table: Comparison) -> None:
    lines = writers.WRITERS["report.md"](report(table)).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == len(table.rows) + 2
    assert {row.replace("\\|", "").count("|") for row in rows} == {rows[1].count("|")}
    (best,) = (row for row in rows if row.startswith("| **"))
    assert best.startswith("| **cayley** |")


def test_latex_escapes_what_latex_reads(table: Comparison) -> None:
    hostile = replace(table.rows[1], label=r"a_b & 50% #1 {x} ~^ \end{document} [95%] <|>")
    content = latex(report(replace(table, rows=[table.rows[0], hostile])))
    assert r"a\_b \& 50\% \#1 \{x\} \textasciitilde{}\textasciicircum{} " in content
    assert r"\textbackslash{}end\{document\} {[}95\%{]} $<$$|$$>$" in content
    assert "largest $|$cos$|$" in content
    assert "$|Q^{\\top}Q-I|$" in content
    assert "0.25 $\\to$ +0.25" in content
    assert not {"±", "→", "ᵀ"} & set(content)


def test_a_report_takes_the_place_of_a_former_one(
    write: Write, tables: Tables, tmp_path: Path
) -> None:
    for steps in (7, 8):
        write("gs", 0, f"budget.steps={steps}", rows=[], test_error=1.0)
    folder = tmp_path / "report"
    folder.mkdir()
    kept = folder / "energy-of-mine.png"
    kept.write_text("not ours")
    (folder / "cost.svg").write_text("not ours: there was no report, and one form alone")
    both = tables()
    two = writers.write(writers.collect(both, "Two", "opt-report", folder=folder))
    assert {"dots-1.png", "dots-2.svg"} <= {path.name for path in two}
    one = writers.write(writers.collect(both[:1], "One", "opt-report", folder=folder))
    assert {*one, kept, folder / "cost.svg"} == set(folder.iterdir())
    assert kept.read_text() == "not ours"


def test_of_many_tables_the_first_have_pictures_and_the_page_says_so(
    write: Write, tables: Tables
) -> None:
    for steps in range(1, writers._MOST + 2):
        write("gs", 0, f"budget.steps={steps}", rows=[], test_error=1.0)
    found = writers.collect(tables(), "Many", "opt-report")
    assert [len(section.pictures) for section in found.sections] == [1] * writers._MOST + [0]
    assert found.remark == "Drawn: 6 of 7 tables, and at most 6 fair comparisons."
    assert found.remark in writers.WRITERS["report.html"](found)
    assert all(not section.notes for section in found.sections[1:]), "each note stands once"
