"""Kills between every two operations on files: nothing is torn, and the same again ends the same.

Each of these tests does one thing again and again in a process that dies one operation later each
time, until it lives. `make chaos` prints the counts.
"""

import itertools
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from opt_runner.config.compose import from_arguments
from opt_runner.console.screen import Screen
from opt_runner.files import set_aside
from opt_runner.records import stored
from opt_runner.records.record import Record
from opt_runner.report.tables import compare
from opt_runner.report.writers import WRITERS, write
from opt_runner.run.execute import execute
from opt_runner.run.interrupt import StopRequest
from opt_runner.run.run import Run, identify
from opt_runner.trained import export, read
from tests.report.conftest import report, writer

OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
SMALL = [
    "hardware=cpu", "hardware.threads=1", "tracking=none", "method=gs", "model=mlp",
    "model.widths=[8]", "budget.steps=4", "log.every=1", "evaluate.every=2",
    "checkpoint.every_steps=2",
]  # fmt: skip


def dies_at(operation: int, action: Callable[[], object], below: Path) -> bool:
    """Do `action` in a process that dies just before its nth operation on files below a folder.

    Return True if it died.
    """
    child = os.fork()
    if not child:
        left = operation

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event not in OPERATIONS or not _is_below(arguments[0], below):
                return
            left -= 1
            if not left:
                os._exit(9)

        sys.addaudithook(count)
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def _is_below(place: Any, folder: Path) -> bool:
    if isinstance(place, int):  # the descriptor of a file that is cut
        place = os.readlink(f"/proc/self/fd/{place}")
    return isinstance(place, str | os.PathLike) and os.fspath(place).startswith(str(folder))


@dataclass
class Kills:
    """Each time a folder of its own, and a process that dies one operation later."""

    folder: Path
    count: int = 0
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def every(
        self, prepare: Callable[[Path], Callable[[], object]], check: Callable[[Path, bool], None]
    ) -> None:
        """prepare: fills a folder and returns what a process does there. check: gets the folder,
        and whether the process died."""
        for number in self._numbers:
            folder = self.folder / str(number)
            folder.mkdir()
            died = dies_at(number, prepare(folder), folder)
            check(folder, died)
            if not died:
                return
            self.count += 1


@pytest.fixture
def kills(tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process has no other
    made = Kills(tmp_path)
    yield made
    torch.set_num_threads(threads)
    assert made.count >= 2
    if os.environ.get("OPT_CHAOS_KILLS"):
        with capsys.disabled():
            print(f"\nkills, {request.node.name}: {made.count}; nothing torn")


def a_run(folder: Path, **changes: Any) -> Run:
    run = identify(from_arguments(*SMALL, f"output_dir={folder}"))
    return replace(run, config=run.config.model_copy(update=changes))


def train(run: Run) -> None:
    result = execute(run, Screen("none"), in_sweep=True, stop=StopRequest())
    assert result is not None
    assert result.status == "finished", result.error


def content(record: Record) -> dict[str, Any]:
    """All that a finished run leaves, without its times."""
    result = json.loads(record.result.read_text())
    rows = [json.loads(line) for line in record.metrics.read_text().splitlines()]
    for timed in (result, *rows):
        timed.pop("seconds", None), timed.pop("samples_per_second", None)
    result.pop("metrics_size")
    config = record.config.read_text().replace("rerun: true", "rerun: false")
    return {
        "result": result,
        "rows": rows,
        "weights": record.weights.read_bytes(),
        "config": config.replace(str(record.directory.parents[4]), "OUT"),
        "files": sorted(path.name for path in record.directory.iterdir()),
    }


@pytest.fixture
def uncut(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = a_run(tmp_path_factory.mktemp("uncut"))
    train(run)
    return content(run.record)


@pytest.mark.slow
def test_a_run_from_its_first_file_to_its_last(kills: Kills, uncut: dict[str, Any]) -> None:
    """Config, rows, checkpoints, weights and result, and the removal of the checkpoints."""

    def check(folder: Path, died: bool) -> None:
        run = a_run(folder)
        with suppress(FileNotFoundError):
            assert not run.record.result.exists() or run.record.read_result() is not None
        train(run)
        assert content(run.record) == uncut

    kills.every(lambda folder: lambda: train(a_run(folder)), check)


@pytest.mark.slow
def test_a_rerun(kills: Kills, uncut: dict[str, Any]) -> None:
    """The old record is whole under one of two names, and is never mixed with the new one."""

    def prepare(folder: Path) -> Callable[[], object]:
        train(a_run(folder))
        return lambda: train(a_run(folder, rerun=True))

    def check(folder: Path, died: bool) -> None:
        record = a_run(folder).record
        aside = record.directory.with_name(f"{record.directory.name}.old-1")
        whole = [one for one in (record.directory, aside) if (one / "result.json").exists()]
        assert content(Record(whole[-1])) == uncut
        train(a_run(folder))
        assert content(record) == uncut

    kills.every(prepare, check)


def test_a_record_set_aside(kills: Kills) -> None:
    names = {"config.yaml", "command.txt", "result.json", "metrics.jsonl", "weights.safetensors"}

    def set_aside_and_begin(kept: Record) -> None:
        with kept.held(lambda holder: None):
            kept.set_aside()
        with kept.held(lambda holder: None):
            kept.append_metrics({"step": 0})

    def prepare(folder: Path) -> Callable[[], object]:
        kept = Record(folder / "run")
        kept.directory.mkdir()
        for name in names:
            (kept.directory / name).write_text("old")
        return lambda: set_aside_and_begin(kept)

    def check(folder: Path, died: bool) -> None:
        found = [folder / "run", folder / "run.old-1"]
        whole = [one for one in found if all((one / name).exists() for name in names)]
        assert len(whole) == 1
        set_aside_and_begin(Record(folder / "run"))  # the same again
        assert Record(folder / "run").read_metrics()[0] == {"step": 0}

    kills.every(prepare, check)


def test_a_damaged_file_set_aside(kills: Kills) -> None:
    def prepare(folder: Path) -> Callable[[], object]:
        (folder / "result.json").write_text("{")

        def mend() -> None:
            set_aside(folder / "result.json")
            Record(folder).append_metrics({"step": 0})

        return mend

    def check(folder: Path, died: bool) -> None:
        found = [path for path in folder.iterdir() if path.name.startswith("result.json")]
        assert [path.read_text() for path in found] == ["{"]

    kills.every(prepare, check)


def test_an_export(kills: Kills, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = a_run(tmp_path_factory.mktemp("exported"))
    train(run)
    trained = read(run.record.directory)
    whole = run.record.weights.read_bytes()

    def prepare(folder: Path) -> Callable[[], object]:
        (folder / "net.safetensors").write_bytes(b"old")
        return lambda: export(trained, "safetensors", folder / "net.safetensors")

    def check(folder: Path, died: bool) -> None:
        path = folder / "net.safetensors"
        assert path.read_bytes() in ((b"old", whole) if died else (whole,))
        export(trained, "safetensors", path)
        assert {one.name: one.read_bytes() for one in folder.iterdir()} == {path.name: whole}

    kills.every(prepare, check)


def test_a_report(kills: Kills, tmp_path_factory: pytest.TempPathFactory) -> None:
    records = tmp_path_factory.mktemp("records")
    for method in ("standard", "gs"):
        writer(records)(method, 0)
    made = report(*compare(stored.find([records], pytest.fail)))
    # The page has links to the records: from all folders of these tests the same.
    made = made._replace(folder=kills.folder / "any")
    whole = {name: text(made).encode() for name, text in WRITERS.items()}

    def prepare(folder: Path) -> Callable[[], object]:
        for name in whole:
            (folder / name).write_bytes(b"old")
        return lambda: write(made._replace(folder=folder))

    def check(folder: Path, died: bool) -> None:
        for name, text in whole.items():
            assert (folder / name).read_bytes() in ((b"old", text) if died else (text,))
        write(made._replace(folder=folder))
        assert {one.name: one.read_bytes() for one in folder.iterdir()} == whole

    kills.every(prepare, check)
