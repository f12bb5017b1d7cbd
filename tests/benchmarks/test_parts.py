"""Each part in its quick form: it runs, and its file says what was measured."""

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.rotations import ALTERNATIVES, OURS
from benchmarks.steps import TIMED
from tests.benchmarks.conftest import Bench

starts_processes = pytest.mark.slow
SUMMARY = {"n", "median", "lower_quartile", "upper_quartile"}


@starts_processes
def test_steps(bench: Bench) -> None:
    rows = bench("steps")
    times = [row for row in rows if row["measure"] == "time"]
    assert [row["method"] for row in times] == list(TIMED)
    assert all(row["ratio"].keys() == SUMMARY and not row["fault"] for row in times)
    memory = [row for row in rows if row["measure"] == "memory"]
    assert [row["method"] for row in memory] == ["standard", "cayley"]
    assert memory[0]["ratio"] == 1
    assert memory[1]["peak_bytes"]["median"] > 0


def test_rotations(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    rows = bench("rotations")
    assert {row["name"] for row in rows if row["ours"]} == OURS.keys()
    assert {row["name"] for row in rows if not row["ours"]} == ALTERNATIVES.keys()
    assert all(row["factor"] > 0 for row in rows if not row["ours"])
    assert "median [quartiles]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "measures"), [("datapath", 3), pytest.param("folder", 7, marks=starts_processes)]
)
def test_data(part: str, measures: int, bench: Bench) -> None:
    rows = bench(part)
    assert len({row["measure"] for row in rows}) == measures
    assert all((row.get("ratio") or row["value"])["median"] > 0 for row in rows)


@starts_processes
def test_networks(bench: Bench) -> None:
    plain, rotated = bench("networks")
    assert [plain["method"], rotated["method"]] == ["standard", "cayley, d <= 1,152"]
    assert 0 < plain["memory"] < rotated["memory"]
    assert rotated["ratio"].keys() == rotated["peak_bytes"].keys() == SUMMARY


def test_growth(bench: Bench, tmp_path: Path) -> None:
    rows = bench("growth")
    every = {(name, d) for name in OURS for d in (8, 16, 32)}
    assert {(row["method"], row["d"]) for row in rows if row["measure"] == "cost"} == every
    memory = {(row["method"], row["d"]): row["bytes"] for row in rows if row["measure"] == "memory"}
    assert memory.keys() == every
    assert memory["gs", 32] > 3 * 4 * 32**2  # R, its gradient and momentum
    for plot in ("growth.png", "growth_memory.png"):
        assert (tmp_path / plot).stat().st_size > 10_000


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--device", "cpu", "--threads", "1", "--out", str(tmp_path)]
    assert main(["networks", "--network", "resnet81", *tiny]) == 2
    assert capsys.readouterr().err == (
        "benchmarks: --network: no 'resnet81'; did you mean 'resnet18'?\n"
    )
    with pytest.raises(SystemExit, match="2"):
        main(["stepps"])
    assert "invalid choice: 'stepps'" in capsys.readouterr().err
