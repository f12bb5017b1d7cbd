"""Records of former releases, which do not hold labels, colours, excess and measured values."""

from pathlib import Path

from opt_runner.records import stored
from opt_runner.report import figures
from opt_runner.report.columns import columns
from opt_runner.report.comparison import compare
from opt_runner.report.figures.style import styles
from opt_runner.report.writers import write

FORMER = Path(__file__).parent / "former_release"


def test_they_make_the_same_table_as_before() -> None:
    (table,) = compare(stored.find([FORMER]))
    assert table.title == "digits, mlp, 6 steps"
    standard, gs = table.rows
    shown = {column.heading: column.text for column in columns(table)}
    assert {heading: text(table, standard) for heading, text in shown.items()} == {
        "method": "standard", "test error %": "90.99", "minus standard [95%]": "-",
        "train loss": "2.6953", "energy change": "+0.014%", "|QᵀQ-I|": "-",
        "trainable parameters": "504", "images/s": "26,768", "seconds": "0.0",
        "n": "1",
    }  # fmt: skip
    assert shown["minus standard [95%]"](table, gs) == "-0.28"
    assert shown["energy change"](table, gs) == "+0.000%"
    assert shown["|QᵀQ-I|"](table, gs) == "6.6e-07"


def test_they_have_all_pictures_in_the_methods_colours() -> None:
    (table,) = compare(stored.find([FORMER]))
    assert list(figures.draw(table)) == ["curves", "speed", "dots", "cost", "energy", "angles"]
    assert [style.colour for style in styles(table)] == ["#777777", "#0072b2"]


def test_they_are_written(tmp_path: Path) -> None:
    written = write(compare(stored.find([FORMER])), tmp_path, "Former", "opt-report former")
    assert len(written) == 17
    assert all(path.stat().st_size > 100 for path in written)
