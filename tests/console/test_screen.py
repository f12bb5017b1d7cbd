"""The screen never ends a run, and prints a user's names as they are."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from opt_runner.console import screen as screens
from opt_runner.console.screen import Screen, SweepBars, bars, new_console
from tests.slow import slow

NAME = "a [/INST] [unknown] :smile:"

PROGRAM = f"""
import sys
from pathlib import Path
from rich.table import Table
from opt_runner.console.screen import Screen
from opt_runner.datasets import Measure

for mode in ("auto", "bar", "plain"):
    screen = Screen(mode)
    table = Table("[/INST]", "─")
    table.add_row({NAME!r}, "\\udce9 é \\x1b[2J")
    screen.show(table)
    for line in range(700):  # in three modes more than a pipe holds
        screen.say(f"line {{line}} [/INST] \\udce9 é \\x1b[2J")
    with screen.run("[/INST] \\udce9", 10, Measure()) as display:
        display.show(5, 0.5)
    print("é of the run's own code")
Path(sys.argv[1]).write_text(str(screen.console.width))
"""


@pytest.mark.parametrize(
    "case",
    ["| head -1", "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0",
     *slow(
         ">&- 2>&- <&-", ">/dev/full", "COLUMNS=many FORCE_COLOR=1", ">&-",
         "PYTHONIOENCODING=latin-1", "COLUMNS=0", "COLUMNS=many", "TERM=dumb", "FORCE_COLOR=1",
     )],
)  # fmt: skip
def test_no_output_ends_a_program(tmp_path: Path, case: str) -> None:
    if "full" in case and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    program, ended = tmp_path / "program.py", tmp_path / "ended"
    program.write_text(PROGRAM)
    command = f"{sys.executable} {program} {ended}"
    shell = f"{case} {command} > {tmp_path}/out" if "=" in case else f"{command} {case}"
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")}
    done = subprocess.run(
        ["sh", "-c", shell], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ended.read_text() == "120"
    if "=" in case:
        printed = (tmp_path / "out").read_bytes()
        assert b"a [/INST] [unknown] :smile:" in printed
        assert b"\x1b[2J" not in printed
        assert printed.count(b"line 699 [/INST] ") == 3


def test_names_are_no_markup_in_bars() -> None:
    console = new_console()
    console.file = io.StringIO()
    drawn = bars(console)
    task = drawn.add_task(NAME, total=None, info="[/red]")
    drawn.update(task, total=2, completed=1)
    console.print(drawn.get_renderable())
    assert "a [/INST] [unknown] :smile:" in console.file.getvalue()
    assert "[/red]" in console.file.getvalue()


def test_the_bar_of_a_sweep_counts_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    console = new_console()
    console.file = io.StringIO()
    sweep = SweepBars(Screen("bar", console))
    running = {"slot-0": {"title": NAME, "step": 1, "steps": 2, "info": "loss 0.5"}}
    with sweep:
        sweep.draw(1, 3, 1, 60.0, running)
        console.print(sweep._bars.get_renderable())
    text = console.file.getvalue()
    assert "1 failed, 1 min 00 s left" in text
    assert "a [/INST] [unknown] :smile: " in text


def test_bars_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not Screen("auto").live
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Screen("auto").live
    monkeypatch.setenv("TERM", "dumb")
    assert not Screen("auto").live


def test_a_silent_screen_shows_failures_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    silent = Screen("none")
    silent.say("said")
    silent.show(Table("shown"))
    silent.fail("failed \x1b[2J")
    assert capsys.readouterr() == ("", "failed \ufffd[2J\n")
    assert screens.duration(3725) == "1 h 02 min"
