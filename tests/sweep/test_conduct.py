"""What is found before a sweep starts, under every launcher alike."""

import os
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


@pytest.mark.skipif(not os.getuid(), reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    run = identify(from_arguments(*SMALL, f"output_dir={tmp_path}"))
    with pytest.raises(UserError, match="is no folder that may be written"):
        conduct(Sweep([run], asked=1, here=True), pytest.fail, Screen("none"))
