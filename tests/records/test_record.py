"""Records on disk: whole or not at all, and never destroyed."""

import errno
from pathlib import Path

import pytest

from opt_runner.errors import UserError
from opt_runner.files import CannotWrite, set_aside, write_whole
from opt_runner.geometry import Geometry
from opt_runner.records.record import Record
from opt_runner.records.result import Result


def record(tmp_path: Path) -> Record:
    (tmp_path / "run").mkdir()
    return Record(tmp_path / "run")


def result(**values) -> Result:
    return Result("abc", "gs", "mlp", "digits", 0, "finished", **values)


def geometry(energy: float) -> Geometry:
    return Geometry({"fc": energy}, {"fc": {"1": 0.5}}, {"fc": 0.1}, {"fc": 0.2}, [1, 2])


def test_a_result_comes_back(tmp_path: Path) -> None:
    kept = record(tmp_path)
    assert kept.read_result() is None
    written = result(test_error=1.5, start=geometry(2.0))
    kept.write_result(written)
    assert kept.read_result() == written


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "finished"}', "\x00"])
def test_a_damaged_result_is_named_and_set_aside(tmp_path: Path, content: str) -> None:
    kept = record(tmp_path)
    kept.result.write_text(content)
    with pytest.raises(UserError, match=r"result\.json is damaged"):
        kept.read_result()
    aside = set_aside(kept.result)
    assert aside.read_text() == content
    assert kept.read_result() is None


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")

    def fail(file) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "disk full")

    with pytest.raises(CannotWrite, match="file: disk full"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_old_records_are_kept_side_by_side(tmp_path: Path) -> None:
    kept = record(tmp_path)
    assert kept.set_aside() is None
    for number in (1, 2):
        kept.write_result(result(steps=number))
        aside = kept.set_aside()
        assert aside.name == f"run.old-{number}"
        assert Record(aside).read_result().steps == number


def test_what_json_does_not_have_is_null(tmp_path: Path) -> None:
    kept = record(tmp_path)
    kept.write_result(result(train_loss=float("nan"), end=geometry(float("inf"))))
    assert "NaN" not in kept.result.read_text()
    assert kept.read_result().train_loss is None
    assert kept.read_result().end.energy == {"fc": None}
    kept.append_metrics({"step": 1, "energy": {"fc": float("nan")}})
    kept.append_metrics({"step": 2, "energy_excess": {"fc": {"0": 1.5, "2": float("nan")}}})
    assert kept.read_metrics() == [
        {"step": 1, "energy": {"fc": None}},
        {"step": 2, "energy_excess": {"fc": {"0": 1.5, "2": None}}},
    ]


def test_metrics_end_where_the_checkpoint_was(tmp_path: Path) -> None:
    kept = record(tmp_path)
    kept.append_metrics({"step": 1})
    size = kept.metrics_size()
    kept.append_metrics({"step": 2})
    assert kept.keep_metrics(size)
    kept.append_metrics({"step": 2, "again": True})
    assert kept.read_metrics() == [{"step": 1}, {"step": 2, "again": True}]


@pytest.mark.parametrize("content", [b"", b'{"step": 1}', b'{"step"!: 1}\n', b'{"step": 1}x\n'])
def test_metrics_that_are_not_what_was_counted(tmp_path: Path, content: bytes) -> None:
    kept = record(tmp_path)
    kept.append_metrics({"step": 1})
    size = kept.metrics_size()
    kept.metrics.write_bytes(content)
    assert not kept.keep_metrics(size)
    assert kept.metrics.read_bytes() == content


def test_half_a_row_is_no_row(tmp_path: Path) -> None:
    kept = record(tmp_path)
    kept.append_metrics({"step": 1})
    with kept.metrics.open("a") as file:
        file.write('{"step": 2, "trai')
    assert kept.read_metrics() == [{"step": 1}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_row_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    kept = record(tmp_path)
    kept.metrics.symlink_to("/dev/full")
    with pytest.raises(CannotWrite, match=r"metrics\.jsonl: No space left on device; make room"):
        kept.append_metrics({"step": 1})


def test_what_a_killed_process_was_writing_goes_with_the_next_lock(tmp_path: Path) -> None:
    kept = record(tmp_path)
    kept.write_result(result())
    (kept.directory / ".checkpoint.pt.abc").write_text("half")
    with kept.held(lambda holder: None):
        names = {path.name for path in kept.directory.iterdir()}
    assert names == {"result.json", "lock"}
