"""Each part of opt-bench in its quick form: it runs, and its file says what was measured."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opt_runner.bench import networks, one_layer, rotations
from opt_runner.bench.part import Settings
from opt_runner.bench.workloads import TIMED
from opt_runner.errors import UserError
from opt_runner.methods import METHODS
from tests.bench.conftest import Bench

KEYS = {
    "part", "date", "command", "quick", "n", "threads", "hardware", "opt_runner", "torch", "python",
    "notes", "rows",
}  # fmt: skip
ROTATING = {name for name in TIMED if METHODS[name]().has_tensors}
SUMMARY = {"n", "median", "lower_quartile", "upper_quartile"}


def check(content: dict[str, Any], part: str) -> list[dict[str, Any]]:
    assert set(content) == KEYS
    assert content["part"] == part
    assert content["command"].startswith(f"opt-bench {part} --quick")
    assert content["threads"] == 1
    assert content["hardware"]["processor"]
    assert not [row for row in content["rows"] if row.get("error")]
    rows: list[dict[str, Any]] = content["rows"]
    return rows


def test_steps(bench: Bench) -> None:
    rows = check(bench("steps"), "steps")
    times = [row for row in rows if row["measure"] == "time"]
    assert [row["method"] for row in times] == list(TIMED)
    for row in times:
        assert set(row["ratio"]) == SUMMARY
        assert row["ratio"]["median"] > 0
        assert not row["diverged"]
    memory = [row for row in rows if row["measure"] == "memory"]
    assert [row["method"] for row in memory] == ["standard", "cayley"]
    assert memory[0]["ratio"] == 1
    assert memory[1]["peak_bytes"]["median"] > 0


def test_rotations(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    rows = check(bench("rotations"), "rotations")
    ours = {row["name"] for row in rows if row["ours"]}
    assert ours == set(one_layer.OURS)
    alternatives = [row for row in rows if not row["ours"]]
    expected = {a.name for a in (*one_layer.ALTERNATIVES, *one_layer.GEOTORCH)}
    assert {row["name"] for row in alternatives} == expected
    assert all(row["variant"] in ours and row["factor"] > 0 for row in alternatives)
    assert "median [quartiles]" in capsys.readouterr().out


def test_without_geotorch_the_report_says_so(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotations, "has_geotorch", lambda: False)
    report = rotations.run(settings)
    assert any("geotorch is not installed" in note for note in report.notes)
    assert not [row for row in report.rows if "geotorch" in row["name"]]


def test_drift(bench: Bench) -> None:
    rows = check(bench("drift"), "drift")
    assert {row["method"] for row in rows} == ROTATING
    assert {row["precision"] for row in rows} == {"float32", "bfloat16"}
    assert all(row["met"] and row["rotations_float32"] for row in rows)


def test_datapath(bench: Bench) -> None:
    rows = check(bench("datapath"), "datapath")
    assert len({row["measure"] for row in rows}) == 4 + 7
    assert all(set(row["value"]) == SUMMARY and row["value"]["median"] > 0 for row in rows)


def test_networks(bench: Bench) -> None:
    rows = check(bench("networks"), "networks")
    assert [row["method"] for row in rows] == ["standard", "frame", "cayley, d <= 1,152"]
    for row in rows:
        assert set(row["ratio"]) == SUMMARY
        assert row["flops"] > 0
    assert all(rows[i]["peak_bytes"]["median"] > 0 for i in (0, 2))
    assert rows[0]["beside"] == 0
    assert rows[2]["beside"] > 0
    assert rows[2]["memory"] > rows[0]["memory"]


def test_a_network_that_is_none_of_them(settings: Settings) -> None:
    with pytest.raises(UserError, match="no 'resnet81'; did you mean 'resnet18'"):
        networks.run(replace(settings, networks=("resnet81",)))


def test_growth(bench: Bench, tmp_path: Path) -> None:
    rows = check(bench("growth"), "growth")
    costs = {(row["method"], row["d"]) for row in rows if row["measure"] == "cost"}
    assert costs == {(name, d) for name in one_layer.OURS for d in (8, 16, 32)}
    crossings = [row for row in rows if row["measure"] == "crossing"]
    assert len(crossings) == 4 * 5
    memory = {(row["method"], row["d"]): row["bytes"] for row in rows if row["measure"] == "memory"}
    assert memory.keys() == costs
    # R, its gradient and momentum; a frame has none of them
    assert memory["gs", 32] > 3 * 4 * 32**2
    for plot in ("growth", "growth_memory"):
        assert (tmp_path / f"bench/{plot}.png").stat().st_size > 10_000
        assert "</svg>" in (tmp_path / f"bench/{plot}.svg").read_text()


def command(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    program = Path(sys.executable).with_name("opt-bench")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, cwd=folder
    )


def test_the_command_names_its_mistakes(tmp_path: Path) -> None:
    wrong = command("stepps", folder=tmp_path)
    assert wrong.returncode == 2
    assert "no part 'stepps'; did you mean 'steps'?" in wrong.stderr
    wrong = command("steps", "--samples", "0", folder=tmp_path)
    assert wrong.returncode == 2
    assert "must be a whole number from 1, got '0'" in wrong.stderr


def test_the_installed_command(tmp_path: Path) -> None:
    done = command("rotations", "--quick", "--threads", "1", "--samples", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "outputs/bench/rotations.json").read_text())
    assert content["command"] == "opt-bench rotations --quick --threads 1 --samples 1"
