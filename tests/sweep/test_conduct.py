"""What is found before a sweep starts, under every launcher alike."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from opt_runner.config.compose import from_arguments
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError
from opt_runner.run.run import identify
from opt_runner.sweep.conduct import conduct
from opt_runner.sweep.sweep import Sweep

SMALL = ["hardware=cpu", "tracking=none", "model=mlp", "model.widths=[8]", "plan.measure=false"]


@pytest.mark.parametrize("place", ["file/below", "default"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / place.partition("/")[0]).write_text("a file")
    folder = tmp_path if place == "default" else tmp_path / place
    run = identify(from_arguments(*SMALL, f"output_dir={folder}"))
    with pytest.raises(UserError, match=r"cannot write to .*; set output_dir=DIR") as caught:
        conduct(Sweep([run], asked=1, here=True), pytest.fail, Screen("none"))
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [place.partition("/")[0]]


def test_a_full_disk_is_one_line_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    run = identify(from_arguments(*SMALL, f"output_dir={tmp_path}"))
    with pytest.raises(UserError, match="No space left on device; set output_dir=DIR"):
        conduct(Sweep([run], asked=1, here=True), pytest.fail, Screen("none"))


def test_a_link_to_nowhere_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("missing/deep")
    run = identify(from_arguments(*SMALL, f"output_dir={tmp_path / 'link'}"))
    with pytest.raises(UserError, match=r"cannot write to .*link: No such file or directory"):
        conduct(Sweep([run], asked=1, here=True), pytest.fail, Screen("none"))


@pytest.mark.skipif(not os.getuid(), reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    run = identify(from_arguments(*SMALL, f"output_dir={tmp_path}"))
    with pytest.raises(UserError, match="Permission denied; set output_dir=DIR"):
        conduct(Sweep([run], asked=1, here=True), pytest.fail, Screen("none"))
