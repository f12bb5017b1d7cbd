"""opt-report and the end of a sweep, on records that opt-run wrote."""

import csv
import json
import shlex
import subprocess
from pathlib import Path

import pytest

from opt_runner.cli import report as opt_report
from opt_runner.records.search import SearchRecord, Trial
from tests import commands
from tests.cli.conftest import COMMAND, SWEEP, TINY, Finished, Run, results
from tests.report.conftest import writer

OF_FOUR = [*SWEEP, "method=standard,gs", "seed=0,1", *TINY, "tracking=none"]


@pytest.fixture
def report(tmp_path: Path, environment: dict[str, str]):
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [COMMAND.with_name("opt-report"), *arguments]
        return commands.run(command, cwd=tmp_path, env={**environment, **variables})

    return run


def test_the_report_of_a_sweep(finished: Finished, report, tmp_path: Path) -> None:
    swept = finished(*OF_FOUR)
    assert "plan: 4 runs: 0 finished, 0 to resume, 4 to run" in swept
    done = report("outputs", "--title", "A <title>")
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.index("digits, mlp") : done.stdout.index("- mean")]
    assert table.strip() in swept, "a sweep ends with the same table"
    folder = tmp_path / "outputs" / "report"
    names = {path.name for path in folder.iterdir()}
    assert {f"report.{kind}" for kind in ("md", "csv", "json", "tex", "html")} <= names
    assert {f"{name}.{kind}" for name in ("curves", "energy", "dots", "angles")
            for kind in ("png", "svg")} <= names  # fmt: skip
    rows = list(csv.DictReader((folder / "report.csv").open()))
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("standard", "0"), ("standard", "1"), ("gs", "0"), ("gs", "1"),
    ]  # fmt: skip
    (content,) = json.loads((folder / "report.json").read_text())["tables"]
    standard, gs = content["rows"]
    errors = {row["method"]: [] for row in rows}
    for row in rows:
        errors[row["method"]].append(float(row["test_error"]))
    assert gs["test_error"]["mean"] == pytest.approx(sum(errors["gs"]) / 2)
    expected = (sum(errors["gs"]) - sum(errors["standard"])) / 2
    assert gs["minus_standard"]["mean"] == pytest.approx(expected)
    assert standard["minus_standard"] is None
    assert "A &lt;title&gt;" in (folder / "report.html").read_text()
    assert report("outputs", "--methods", "gs").returncode == 0, "a report is replaced"


@pytest.mark.slow
def test_a_notebook_s_backend_of_matplotlib_is_not_used(finished: Finished, report) -> None:
    finished(*OF_FOUR)
    assert report("outputs", MPLBACKEND="module://a_notebooks.backend").returncode == 0


@pytest.mark.slow
def test_budgets_are_separate_tables(opt_run: Run, finished: Finished, report) -> None:
    finished(*OF_FOUR)
    assert opt_run(*OF_FOUR, "budget.steps=9").returncode == 0
    done = report()
    assert "digits, mlp, 12 steps, budget.steps=12" in done.stdout
    assert "digits, mlp, 9 steps, budget.steps=9" in done.stdout


def test_a_run_repeats_by_its_command(opt_run: Run, finished: Finished, tmp_path: Path) -> None:
    finished(*OF_FOUR)
    commands = sorted(path.read_text() for path in tmp_path.glob("outputs/**/command.txt"))
    assert len(commands) == 4
    for command in commands:
        done = opt_run(*shlex.split(command)[1:])
        assert done.returncode == 0
        assert "finished before, skipped" in done.stdout


@pytest.mark.slow
def test_the_plan_measures_before_a_sweep(opt_run: Run, tmp_path: Path) -> None:
    assert opt_run("method=gs", "seed=1", *TINY, "tracking=none").returncode == 0
    done = opt_run(*OF_FOUR, "plan.measure=true", "note=a note")
    assert done.returncode == 0, done.stderr
    note, skipped, plan = done.stdout[: done.stdout.index("disk:")].split("\n", 2)
    assert note == "a note"
    assert skipped.startswith("gs mlp digits seed 1: finished before, skipped (")
    assert plan.startswith("plan: 4 runs: 1 finished, 0 to resume, 3 to run\n")
    assert "time left: " in plan
    assert "data: 1,442 + 355 images" in plan
    standard, gs = (line.split() for line in plan.splitlines() if line.startswith("  digits"))
    assert "memory" in plan
    assert standard[6] == gs[6] == "MiB"
    assert standard[:5] == ["digits", "mlp", "standard", "2", "12"]
    assert gs[:5] == ["digits", "mlp", "gs", "1", "12"]


def test_a_network_that_does_not_fit_shows_in_the_plan(opt_run: Run, tmp_path: Path) -> None:
    done = opt_run("-m", "model=mlp,cnn6", "model.widths=[8,8,8,8]", "tracking=none",
                   "plan.measure=true")  # fmt: skip
    assert done.returncode == 2
    assert "too small for 4 halvings" in done.stderr
    assert not list(tmp_path.glob("outputs/**/config.yaml")), "nothing was written"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["nowhere"], "nowhere is no folder"), (["empty"], "empty holds no records of opt-run")],
)
def test_mistakes(report, tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "empty").mkdir()
    done = report(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_comparison_that_has_only_been_searched(report, tmp_path: Path) -> None:
    trial = Trial(0, "finished", {"optimizer.lr": 0.1}, 12.5, [12.5], ["0123456789ab"])
    folder = tmp_path / "outputs/evidence/fair-01234567/gs"
    folder.mkdir(parents=True)
    SearchRecord("fair-01234567", {"optimizer.lr": "0.1"}, [trial], "gs").write(folder)
    done = report("outputs/evidence")
    assert done.returncode == 0, done.stderr
    assert "12.5" in done.stdout
    assert (tmp_path / "outputs/evidence/report/report.md").is_file()


@pytest.mark.slow
def test_runs_of_a_grid_that_are_trials_as_well_are_counted_and_can_be_shown(
    report, finished: Finished, tmp_path: Path
) -> None:
    finished(*OF_FOUR)
    runs = {(one["method"], one["seed"]): one["signature"] for one in results(tmp_path)}
    trials = [
        Trial(0, "finished", {"method": "gs"}, 5.0, [5.0], [runs["gs", 0]]),
        Trial(1, "finished", {"method": "standard"}, 6.0, [6.0], [runs["standard", 0]]),
    ]
    folder = tmp_path / "outputs/default/search-01234567"
    folder.mkdir()
    SearchRecord("search-01234567", {"method": "gs,standard"}, trials).write(folder)
    done = report("outputs/default")
    assert "left out: 1 run of trials that are not the best (--trials shows them)" in done.stdout
    rows = list(csv.DictReader((tmp_path / "outputs/default/report/report.csv").open()))
    assert len(rows) == 3
    done = report("outputs/default", "--trials")
    assert "left out" not in done.stdout
    rows = list(csv.DictReader((tmp_path / "outputs/default/report/report.csv").open()))
    assert len(rows) == 4


def test_methods_and_columns_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("standard", "gs", "cayley"):
        writer(tmp_path)(method, 0)
    opt_report.main([str(tmp_path), "--methods=cayley,standard", "--columns", "gap, test error"])
    head, *rows = [
        [*filter(None, line.split("  "))]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("  method", "  standard", "  gs", "  cayley"))
    ]
    assert [cell.strip() for cell in head] == ["method", "gap", "test error %"]
    assert [row[0].strip() for row in rows] == ["standard", "cayley"]
    assert "| method | gap | test error % |" in (tmp_path / "report/report.md").read_text()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--methods=ls", "--methods: no run has the method ls; there are: gs"),
        ("--columns=gaps", "--columns: no column is called gaps; there are: method, test error, "),
        ("--out=a/report", "cannot write to a/report: Not a directory; set --out=DIR"),
    ],
)
def test_an_option_that_cannot_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    says: str,
) -> None:
    writer(tmp_path)("gs", 0)
    monkeypatch.chdir(tmp_path)
    Path("a").touch()
    with pytest.raises(SystemExit) as stopped:
        opt_report.main([str(tmp_path), option])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_live_report_is_written_until_no_run_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = writer(tmp_path)
    for seed, status in enumerate(("finished", "interrupted")):
        write("gs", seed, status=status)
    page = tmp_path / "report" / "explore.html"
    # One run trains at the first two looks; then none does, twice.
    held = [True, True, False, False]
    monkeypatch.setattr(opt_report, "_held", lambda runs: held.pop(0))

    def pause(seconds: float) -> None:
        if seconds == 7:
            assert 'content="7"' in page.read_text(), "a browser reads it again"
            write("gs", 2 + len(held))

    monkeypatch.setattr("time.sleep", pause)
    opt_report.main([str(tmp_path), "--live=7"])
    said = capsys.readouterr().out
    assert "written: 1 of 2 runs finished" in said
    assert "written: 2 of 3 runs finished" in said
    assert said.rstrip().endswith("more files")
    assert 'http-equiv="refresh"' not in page.read_text()
    assert not held


def test_a_report_is_written_before_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    writer(tmp_path)("gs", 0)
    monkeypatch.setattr("opt_runner.console.screen.Screen.show", lambda *_: 1 / 0)
    with pytest.raises(SystemExit):
        opt_report.main([str(tmp_path)])
    assert (tmp_path / "report" / "report.html").exists()
