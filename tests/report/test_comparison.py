"""Which cells stand in one table, in one row, and what is said of them."""

from typing import Any

import pytest

from opt_runner.report import table
from opt_runner.report.comparison import Comparison, columns
from tests.report.conftest import Tables, Write


def shown(comparison: Comparison, heading: str) -> dict[str, str]:
    (cell,) = (cell for name, cell in columns() if name == heading)
    return {row.label: cell(comparison, row) for row in comparison.rows}


def test_seeds_are_averaged_and_set_against_standard(write: Write, tables: Tables) -> None:
    for seed, (plain, ours) in enumerate([(10.0, 8.0), (12.0, 9.0), (11.0, 8.5)]):
        write("standard", seed, test_error=plain)
        write("gs", seed, test_error=ours)
    (comparison,) = tables()
    assert shown(comparison, "test error %") == {"standard": "11.00 ± 1.00", "gs": "8.50 ± 0.50"}
    # Differences -2, -3, -2.5: t(2) = 4.3027, so 4.3027 * 0.5 / sqrt(3) = 1.2421.
    expected = {"standard": "-", "gs": "-2.50 [-3.74, -1.26]"}
    assert shown(comparison, "minus standard [95%]") == expected
    assert comparison.best is comparison.rows[1]


def test_the_lowest_is_not_the_best_while_its_interval_holds_zero(
    write: Write, tables: Tables
) -> None:
    for seed, (plain, ours) in enumerate([(10.0, 1.0), (12.0, 13.0)]):
        write("standard", seed, test_error=plain)
        write("gs", seed, test_error=ours)
    (comparison,) = tables()
    assert comparison.best is None


@pytest.mark.parametrize(
    "override",
    [
        "budget.steps=7",
        "model=mlp",
        "batch_size=64",
        "hardware.precision=bfloat16",
        "dataset=mnist",
    ],
)
def test_what_is_not_comparable_is_another_table(
    write: Write, tables: Tables, override: str
) -> None:
    write("gs", 0)
    write("gs", 1, override)
    found = tables()
    assert [len(comparison.rows[0].cells) for comparison in found] == [1, 1]
    assert len({comparison.title for comparison in found}) == 2


@pytest.mark.parametrize(
    "fields",
    [{"versions": {"opt_runner": "9", "torch": "9"}}, {"device": "cuda"}, {"data": "other"}],
)
def test_other_versions_devices_and_data_are_other_tables(
    write: Write, tables: Tables, fields: dict[str, Any]
) -> None:
    write("gs", 0)
    write("gs", 1, **fields)
    assert len(tables()) == 2


def test_options_of_a_method_are_rows(write: Write, tables: Tables) -> None:
    write("sopt", 0)
    write("sopt", 0, "method.inner=cayley")
    write("sopt", 1, "method.inner=cayley", "output_dir=elsewhere")
    (comparison,) = tables()
    labels = [row.label for row in comparison.rows]
    assert labels == ["sopt method.inner=gs", "sopt method.inner=cayley"]
    assert shown(comparison, "n") == {
        "sopt method.inner=gs": "1 of 2: 1 missing", "sopt method.inner=cayley": "2",
    }  # fmt: skip


def test_two_forms_of_standard_are_no_baseline(write: Write, tables: Tables) -> None:
    write("standard", 0)
    write("standard", 0, "optimizer.lr=0.5")
    write("gs", 0)
    (comparison,) = tables()
    assert comparison.baseline is None
    assert set(shown(comparison, "minus standard [95%]").values()) == {"-"}


def test_what_did_not_finish_is_said_and_not_averaged(write: Write, tables: Tables) -> None:
    for seed in (0, 1):
        write("standard", seed, test_error=10.0)
    write("gs", 0, test_error=8.0)
    write("gs", 1, status="failed", error="a bug\nwith more", test_error=99.0, device=None)
    (comparison,) = tables()
    assert shown(comparison, "test error %")["gs"] == "8.00"
    assert shown(comparison, "n") == {"standard": "2", "gs": "1 of 2: 1 failed"}
    (line,) = table.faults(comparison)
    assert line.endswith("seed 1: failed: a bug")
