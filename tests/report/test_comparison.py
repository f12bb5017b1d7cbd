"""Which runs stand in one table, in one row, and what is said of them."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from opt_runner.records import stored
from opt_runner.report.columns import sheet
from opt_runner.report.comparison import Comparison
from opt_runner.report.terminal import faults
from tests.report.conftest import Tables, Write, fail, geometry


def shown(comparison: Comparison, heading: str) -> dict[str, str]:
    text = sheet(comparison)
    place = text.headings.index(heading)
    cells = [cells[place] for cells in text.cells]
    return {row.label: cell for row, cell in zip(comparison.rows, cells, strict=True)}


def headings(comparison: Comparison, brief: bool = False) -> list[str]:
    return sheet(comparison, brief).headings


def test_seeds_are_averaged_and_compared_with_standard(write: Write, tables: Tables) -> None:
    for seed, (plain, ours) in enumerate([(10.0, 8.0), (12.0, 9.0), (11.0, 8.5)]):
        write("standard", seed, test_error=plain)
        write("gs", seed, test_error=ours)
    (comparison,) = tables()
    assert shown(comparison, "test error %") == {"standard": "11.00 ± 1.00", "gs": "8.50 ± 0.50"}
    # Differences -2, -3, -2.5: t(2) = 4.3027, so 4.3027 * 0.5 / sqrt(3) = 1.2421.
    expected = {"standard": "-", "gs": "-2.50 [-3.74, -1.26]"}
    assert shown(comparison, "minus standard [95%]") == expected
    assert comparison.best is comparison.rows[1]


def test_an_interrupted_copy_does_not_hide_a_finished_run(write: Write, tables: Tables) -> None:
    write("gs", 0, test_error=8.0)
    later = write("gs", 0, "experiment_name=other", status="interrupted")
    os.utime(later.result, (2e9, 2e9))
    (comparison,) = tables()
    assert shown(comparison, "test error %") == {"gs": "8.00"}


def test_a_link_to_a_run_is_that_run(write: Write, tmp_path: Path) -> None:
    record = write("gs", 0)
    (tmp_path / "best").symlink_to(record.directory)
    (tmp_path / "results.old-paper").mkdir()
    (tmp_path / "results.old-paper/mine").symlink_to(record.directory.parent)
    for folder in (tmp_path, tmp_path / "results.old-paper"):
        (run,) = stored.find([folder], fail)
        assert run.signature == record.directory.name.rpartition("-")[2]


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
    assert [len(comparison.rows[0].runs) for comparison in found] == [1, 1]
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
    found = tables()
    assert len(found) == 2
    assert len({comparison.title for comparison in found}) == 2


@pytest.mark.parametrize(("data", "count"), [("same", 1), ("other", 2)])
def test_the_data_make_a_table_and_not_their_paths(
    write: Write, tables: Tables, data: str, count: int
) -> None:
    """Two machines have them in different places."""
    folder = "dataset=image_folder"
    write("gs", 0, folder, "dataset.root=here", data="same")
    write("gs", 1, folder, "dataset.root=there", "dataset.cache_dir=fast", data=data)
    titles = [comparison.title for comparison in tables()]
    assert len(titles) == count
    assert all("dataset.root" in title for title in titles) == (count == 2)


def test_runs_that_failed_before_their_data_were_read_are_tables_by_path(
    write: Write, tables: Tables
) -> None:
    for root in ("bad", "worse"):
        write("gs", 0, "dataset=image_folder", f"dataset.root={root}", status="failed", device="")
    write("gs", 0, "dataset=image_folder", "dataset.root=good", data="read")
    found = tables()
    assert [len(comparison.rows[0].runs) for comparison in found] == [1, 1, 1]
    assert len({comparison.title for comparison in found}) == 3


def test_a_run_under_way_does_not_hide_a_finished_one(write: Write, tables: Tables) -> None:
    write("gs", 0, test_error=7.0)
    other = write("gs", 0)  # of other data, which only a result names
    other.result.unlink()
    os.utime(other.config, (2**31, 2**31))  # the later one
    (comparison,) = tables()
    assert shown(comparison, "test error %") == {"gs": "7.00"}


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


def test_rows_that_read_alike_have_labels_of_their_own(write: Write, tables: Tables) -> None:
    write("parametrization", 0)
    write("parametrization", 0, "method.arguments={}")
    for lr in (0.1, 0.100000001):
        write("gs", 0, f"optimizer.lr={lr}")
    for field in ({}, {"method.more": None}, {"method.more": 1}, {"method.more": 1.0}):
        record = write("hr", 0)
        content = yaml.safe_load(record.config.read_text())
        content["method"] |= {key.partition(".")[2]: value for key, value in field.items()}
        record.config.write_text(yaml.safe_dump(content))
    (table,) = tables()
    assert [row.label for row in table.rows] == [
        "gs optimizer.lr=0.1", "gs optimizer.lr=0.100000001", "hr", "hr method.more=null",
        "hr method.more=1 (1)", "hr method.more=1 (2)",
        "parametrization method.arguments=null", "parametrization method.arguments={}",
    ]  # fmt: skip


def test_a_number_that_a_seed_lacks_has_no_mean(write: Write, tables: Tables) -> None:
    for seed, value in enumerate((3.0, None, 4.0)):
        write("gs", seed, test_error_at_best=value)
    (table,) = tables()
    assert table.rows[0].mean("test_error_at_best") is None
    assert table.rows[0].mean("test_error") is not None


def test_rows_with_other_optimizers_are_named_by_them(write: Write, tables: Tables) -> None:
    write("gs", 0)
    write("gs", 0, "optimizer=adamw", "schedule=cosine")
    write("gs", 0, "optimizer=adamw", "optimizer.lr=0.01", "schedule=cosine")
    write("hr", 0)
    (table,) = tables()
    assert [row.label for row in table.rows] == [
        "gs optimizer=sgd schedule=milestones",
        "gs optimizer=adamw schedule=cosine optimizer.lr=0.001",
        "gs optimizer=adamw schedule=cosine optimizer.lr=0.01",
        "hr",
    ]


def test_a_row_has_the_label_and_colour_that_its_method_states(
    write: Write, tables: Tables
) -> None:
    write("gs", 0, label="OPT (GS)", colour="#123456")
    write("gs", 1, status="failed", error="no device", label=None, colour=None)
    write("cayley", 0)  # a former release's record says neither
    write("cayley", 0, name="mine", label="OPT (GS)")
    (comparison,) = tables()
    assert [(row.label, row.colour) for row in comparison.rows] == [
        ("OPT (GS) (gs)", "#123456"), ("cayley", "#CC79A7"), ("OPT (GS) (mine)", None),
    ]  # fmt: skip


def test_two_forms_of_standard_are_no_baseline(write: Write, tables: Tables) -> None:
    write("standard", 0)
    write("standard", 0, "optimizer.lr=0.5")
    write("gs", 0)
    (comparison,) = tables()
    assert comparison.baseline is None
    assert "minus standard [95%]" not in headings(comparison)


def test_what_did_not_finish_is_told_and_not_averaged(write: Write, tables: Tables) -> None:
    for seed in (0, 1):
        write("standard", seed, test_error=10.0)
    write("gs", 0, test_error=8.0)
    write("gs", 1, status="failed", error="a bug\nwith more", test_error=99.0, device=None)
    (comparison,) = tables()
    assert shown(comparison, "test error %")["gs"] == "8.00"
    assert shown(comparison, "n") == {"standard": "2", "gs": "1 of 2: 1 failed"}
    (line,) = faults(comparison)
    assert line.endswith("seed 1: failed: a bug")


def test_energy_excess_and_cosines_before_and_after(table: Comparison) -> None:
    # features.0 starts at -1, 0, 1 for seeds 0, 1, 2, features.3 is 0.5, fc is not defined.
    excess = shown(table, "energy excess")
    assert excess["gs"] == "+0.25 → +0.25"
    before, after = map(float, excess["standard"].split(" → "))
    assert before == 0.25 < after
    assert excess["hr"] == "-"
    cosines = shown(table, "largest |cos|")
    assert cosines["gs"] == "0.400 → 0.400"
    assert cosines["standard"] == "0.400 → 0.425"


def test_an_excess_that_is_lost_in_training_is_not_told(write: Write, tables: Tables) -> None:
    rows = [
        {"half_space_excess": excess} for excess in ({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": None})
    ]
    write("gs", 0, start=geometry(rows[0], []), end=geometry(rows[1], []))
    (comparison,) = tables()
    assert "energy excess" not in headings(comparison)


def test_what_methods_measure_has_columns(write: Write, tables: Tables) -> None:
    for seed, value in enumerate((0.5, 0.25)):
        write("gs", seed, measured={"rank loss": value})
    write("standard", 0)
    (comparison,) = tables()
    assert shown(comparison, "rank loss") == {"standard": "-", "gs": "5.0e-01"}
    assert any(note.startswith("rank loss: ") for note in sheet(comparison).notes)
    assert "rank loss" not in headings(comparison, brief=True)


def test_notes_tell_of_the_columns_that_are_there(write: Write, tables: Tables) -> None:
    write("standard", 0)
    (comparison,) = tables()
    told = sheet(comparison).notes
    assert len(told) == len(set(told))
    assert any(note.startswith("energy excess: ") for note in told)
    assert not any(note.startswith(("minus standard", "energy change")) for note in told)


def test_a_method_whose_seeds_all_differ_alike_has_no_p_and_counts_as_compared(
    write: Write, tables: Tables
) -> None:
    for seed, plain in enumerate([10.0, 12.0, 11.0]):
        write("standard", seed, test_error=plain)
        write("gs", seed, test_error=plain + 2)
        write("hr", seed, test_error=plain + (0.5, 0.9, 0.4)[seed])
    (comparison,) = tables()
    assert shown(comparison, "p")["gs"] == "-"
    hr = comparison.rows[2]
    alone = comparison.differences.get(hr)
    assert alone is not None
    assert alone.p is not None
    assert comparison.corrected[hr] == pytest.approx(2 * alone.p)
    assert comparison.power is not None
    assert "with correction for 2 methods" in comparison.power


def test_runs_that_failed_early_do_not_lengthen_the_title_of_other_tables(
    write: Write, tables: Tables
) -> None:
    write("gs", 0)
    write("gs", 0, "dataset.share=0.1", status="failed", rows=[], device=None, versions={})
    assert {comparison.title for comparison in tables()} == {
        "digits, cnn6, 100 steps, dataset.share=1", "digits, cnn6, dataset.share=0.1",
    }  # fmt: skip


def test_rows_that_are_lower_than_the_bold_one_are_named_with_the_reason(
    write: Write, tables: Tables
) -> None:
    for seed in range(3):
        write("standard", seed, test_error=10.0 + seed)
        write("gs", seed, test_error=8.0 + seed + 0.01 * seed)
        write("hr", seed, test_error=(0.0, 19.0, 1.0)[seed])
    write("ls", 0, test_error=1.0)
    write("cayley", 0, test_error=20.0)
    (comparison,) = tables()
    assert comparison.best is comparison.rows[1]
    hr = comparison.corrected[comparison.rows[2]]
    assert comparison.above_best == (
        f"Lower than the bold row, but not bold: hr (p {hr:.2g}), ls (1 of 3 runs finished)."
    )
    assert comparison.above_best in comparison.remarks


def test_the_bold_row_alone_needs_no_word(table: Comparison) -> None:
    assert table.best is not None
    assert table.above_best is None


def test_runs_that_ended_early_are_counted(write: Write, tables: Tables) -> None:
    write("standard", 0)
    write("cayley", 0, steps=40, stopped="3 evaluations without a lower validation error")
    write("gs", 0, steps=60, stopped="3 evaluations without a lower validation error")
    (comparison,) = tables()
    early = "2 of 3 runs ended early by evaluate.patience, after 40 to 60 steps."
    assert early in comparison.remarks
