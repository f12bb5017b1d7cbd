"""Records on disk: whole or not at all, and never destroyed."""

from pathlib import Path

import pytest

from opt_runner.errors import UserError
from opt_runner.records import Record, Result, write_whole


def record(tmp_path: Path) -> Record:
    (tmp_path / "cell").mkdir()
    return Record(tmp_path / "cell")


def result(**values) -> Result:
    return Result("finished", "abc", "gs", "mlp", "digits", 0, **values)


def test_a_result_comes_back(tmp_path: Path) -> None:
    kept = record(tmp_path)
    assert kept.read_result() is None
    written = result(test_error=1.5, energy_start={"fc": 2.0})
    kept.write_result(written)
    assert kept.read_result() == written


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "finished"}', "\x00"])
def test_a_damaged_result_is_named_and_set_aside(tmp_path: Path, content: str) -> None:
    kept = record(tmp_path)
    kept.result.write_text(content)
    with pytest.raises(UserError, match=r"result\.json is damaged"):
        kept.read_result()
    aside = kept.set_result_aside()
    assert aside.read_text() == content
    assert kept.read_result() is None


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")

    def fail(file) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_old_records_are_kept_side_by_side(tmp_path: Path) -> None:
    kept = record(tmp_path)
    assert kept.set_aside() is None
    for number in (1, 2):
        kept.write_result(result(steps=number))
        aside = kept.set_aside()
        assert aside.name == f"cell.old-{number}"
        assert Record(aside).read_result().steps == number


def test_what_json_does_not_have_is_null(tmp_path: Path) -> None:
    kept = record(tmp_path)
    kept.write_result(result(train_loss=float("nan"), energy_end={"fc": float("inf")}))
    assert "NaN" not in kept.result.read_text()
    assert kept.read_result().train_loss is None
    assert kept.read_result().energy_end == {"fc": None}
    kept.append_metrics({"step": 1, "energy": {"fc": float("nan")}})
    assert kept.read_metrics() == [{"step": 1, "energy": {"fc": None}}]


def test_metrics_end_where_the_checkpoint_was(tmp_path: Path) -> None:
    kept = record(tmp_path)
    kept.append_metrics({"step": 1})
    size = kept.metrics_size()
    kept.append_metrics({"step": 2})
    kept.truncate_metrics(size)
    kept.append_metrics({"step": 2, "again": True})
    assert kept.read_metrics() == [{"step": 1}, {"step": 2, "again": True}]
