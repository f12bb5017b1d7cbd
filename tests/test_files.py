"""Files: whole or not at all, never through a link, and without litter of killed writers."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from opt_runner.errors import UserError
from opt_runner.files import CannotWrite, locked, write_text_quickly, write_whole


def test_the_umask_holds(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_whole(tmp_path / "private", "content")
        os.umask(0o002)
        write_whole(tmp_path / "shared", "content")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"private": 0o600, "shared": 0o664}


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    (tmp_path / "file").symlink_to(elsewhere)
    write_whole(tmp_path / "file", "content")
    assert elsewhere.read_text() == "precious"
    assert not (tmp_path / "file").is_symlink()
    (tmp_path / f".status.{os.getpid()}").symlink_to(elsewhere)
    write_text_quickly(tmp_path / "status", "content")
    assert elsewhere.read_text() == "precious"


def test_text_that_utf8_does_not_have_is_escaped(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "caf\udce9")
    assert (tmp_path / "file").read_text() == "caf\\udce9"


def test_what_a_killed_process_was_writing_goes_with_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    program = f"""
import os, signal
from pathlib import Path
from opt_runner.files import write_whole
def die(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
write_whole(Path({str(path)!r}), die)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    write_whole(tmp_path / "report.html.csv", "another file's litter is left to that file")
    assert len(list(tmp_path.iterdir())) == 2
    write_whole(path, "whole")
    assert {one.name for one in tmp_path.iterdir()} == {"report.html", "report.html.csv"}


def test_a_file_that_another_thread_writes_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    begun, end = threading.Event(), threading.Event()

    def slow(file) -> None:
        file.write(b"slow")
        begun.set()
        end.wait(30)

    writer = threading.Thread(target=write_whole, args=(path, slow))
    writer.start()
    assert begun.wait(30)
    write_whole(path, "quick")
    end.set()
    writer.join()
    assert path.read_text() == "slow"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_whose_folder_is_moved_is_not_intact_and_the_next_one_is(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    with locked(path, busy=pytest.fail) as first:
        assert first.intact
        path.parent.rename(tmp_path / "moved")
        assert not first.intact
        with locked(path, busy=pytest.fail) as second:
            assert second.intact
            assert not first.intact


def test_who_waits_for_a_lock_that_is_moved_gets_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"

    def move(holder: str) -> None:
        assert holder.startswith(f"process {os.getpid()} on ")
        path.parent.rename(tmp_path / "moved")

    with locked(path, busy=pytest.fail), locked(path, busy=move) as second:
        assert second.intact
    assert (tmp_path / "moved" / "lock").exists()


def test_a_lock_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FileLock, "acquire", full)
    with (
        pytest.raises(UserError, match="No space left on device; make room"),
        locked(tmp_path / "lock", busy=pytest.fail),
    ):
        pass


def test_a_folder_that_cannot_be_made_ends_the_waiting() -> None:
    path = Path("/proc/none/lock")
    with pytest.raises(UserError, match="cannot be locked"), locked(path, busy=pytest.fail):
        pass


def test_the_advice_fits_the_error(tmp_path: Path) -> None:
    def fail(number: int) -> None:
        def write(file) -> None:
            raise OSError(number, os.strerror(number))

        write_whole(tmp_path / "file", write)

    with pytest.raises(CannotWrite, match="No space left on device; make room, then run"):
        fail(28)
    with pytest.raises(CannotWrite, match="remove the link, then run"):
        fail(40)
