"""The table in a terminal keeps its numbers whole, however narrow it is."""

import pytest
from rich.console import Console

from opt_runner.report import terminal
from opt_runner.report.comparison import Comparison
from tests.report.conftest import Tables, Write


def shown(table: Comparison, width: int) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(terminal.table(table, width)[0])
    return capture.get()


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_nothing_is_cut_off(table: Comparison, width: int) -> None:
    words = shown(table, width)
    assert "…" not in words
    assert max(map(len, words.splitlines())) <= width
    for row in table.rows:
        assert row.label in words
    assert "test error %" in words
    assert table.best
    (best,) = (line for line in words.splitlines() if table.best.label in line)
    assert "1.51 ± 0.20" in best


def test_a_wide_terminal_has_all_columns(table: Comparison) -> None:
    words = shown(table, 160)
    for heading in ("minus standard [95%]", "train loss", "energy excess", "|QᵀQ-I|"):
        assert heading in words
    assert "energy excess" not in shown(table, 90)


def test_long_labels_are_wrapped(write: Write, tables: Tables) -> None:
    for lr in (0.1, 0.2):
        for factor in (0.3, 0.4):
            write("gs", 0, f"optimizer.lr={lr}", f"schedule.factor={factor}")
    (table,) = tables()
    lines = shown(table, 70).splitlines()
    assert not any("…" in line for line in lines)
    assert "test error %" in lines[2]
    labels = "".join(line[:20].strip() for line in lines)
    for row in table.rows:
        assert row.label.replace(" ", "") in labels


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_count_stays_and_notes_are_of_the_columns_that_fit(
    table: Comparison, width: int
) -> None:
    console = Console(width=width, force_terminal=False)
    drawn, notes = terminal.table(table, width)
    headings = [str(column.header) for column in drawn.columns]
    assert headings[-1] == "n"
    for heading, start in (("test error %", "mean ±"), ("p", "p: "), ("seconds", "seconds: ")):
        assert (heading in headings) == any(note.startswith(start) for note in notes)
    with console.capture() as capture:
        console.print(drawn)
    assert "missing" in capture.get()
