"""Records on disk: whole or not at all, and never destroyed."""

import errno
import logging
import resource
import shutil
from pathlib import Path

import pytest

from opt_runner.console.run_log import run_log
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
        with kept.held(pytest.fail):
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


def test_a_row_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    kept = record(tmp_path)
    kept.append_metrics({"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kept.metrics_size() + 5, before[1]))
        with pytest.raises(CannotWrite, match=r"metrics\.jsonl: .*; make room"):
            kept.append_metrics({"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert kept.metrics.read_text() == '{"step": 1}\n'


def test_what_a_killed_process_was_writing_goes_with_the_next_lock(tmp_path: Path) -> None:
    kept = record(tmp_path)
    kept.write_result(result())
    (kept.directory / ".checkpoint.pt.0123abcd").write_text("half")
    with kept.held(lambda holder: None):
        names = {path.name for path in kept.directory.iterdir()}
    assert names == {"result.json", "lock"}


def test_rows_are_not_written_through_a_link(tmp_path: Path) -> None:
    kept = record(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text('{"step": 1}\n{"step": 2}\n')
    kept.metrics.symlink_to(elsewhere)
    with pytest.raises(CannotWrite, match="remove the link"):
        kept.append_metrics({"step": 3})
    with pytest.raises(CannotWrite, match="remove the link"):
        kept.keep_metrics(12)
    assert elsewhere.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_the_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    kept = record(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    kept.log.symlink_to(elsewhere)
    with run_log(kept.log):
        logging.getLogger("opt_runner").info("said")
    assert elsewhere.read_text() == "precious"
    assert "said" in kept.log.read_text()


def test_a_holder_whose_record_is_removed_stops_writing(tmp_path: Path) -> None:
    first = record(tmp_path)
    with first.held(pytest.fail):
        first.append_metrics({"step": 1})
        shutil.rmtree(first.directory)
        second = Record(first.directory)
        with second.held(pytest.fail):
            second.append_metrics({"step": 0})
            second.write_result(result(steps=7))
            for write in (
                lambda: first.append_metrics({"step": 2}),
                lambda: first.write_result(result()),
                first.set_aside,
            ):
                with pytest.raises(CannotWrite, match="removed or replaced while"):
                    write()
            assert second.read_metrics() == [{"step": 0}]
            assert second.read_result() == result(steps=7)


def test_an_empty_file_of_the_id_in_wandb_is_made_anew(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.wandb.write_text("")
    assert record.wandb_id() == record.wandb.read_text().strip() != ""
