"""Records as training would have written them, without training."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml

from opt_runner.config.compose import compose, conf_dir
from opt_runner.config.schema import Config
from opt_runner.geometry import Geometry
from opt_runner.records import stored
from opt_runner.records.record import Record
from opt_runner.records.result import Result
from opt_runner.report.columns import sheet
from opt_runner.report.comparison import Comparison
from opt_runner.report.tables import compare
from opt_runner.report.writers.report import Report, Section

STEPS = 100
SEEDS = (0, 1, 2)
# What a run's error comes to, before what its seed adds.
ERRORS = {"standard": 3.0, "gs": 2.0, "cayley": 1.2}
HOSTILE = "RuntimeError: <script>alert('&')</script>\n\x00\x1b[31mred \ud800 https://example.com"

Write = Callable[..., Record]
Tables = Callable[[], list[Comparison]]


@cache  # it takes a third of a second
def composed(*overrides: str) -> Config:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides)


def metrics(method: str, seed: int, until: int = STEPS) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    spread = 0.2 * seed + 0.1 * ((seed * len(method)) % 3)
    for step in range(0, until + 1, 5):
        row: dict[str, Any] = {"step": step, "epoch": step / 10}
        left = math.exp(-step / 15)
        if step:
            loss = 2.5 * left + 0.08 + 0.01 * seed
            row |= {"lr": 0.1, "train_loss": loss, "penalty": 0.0, "seconds": step / 50}
        if step % 20 == 0:
            moved = 0.0 if method != "standard" else 2e-4 * (1 - left) * (1 + seed / 4)
            row["test_error"] = 90 * left + ERRORS.get(method, 2.0) * (1 - left) + spread
            row["energy"] = {"features.0": 500.0 * (1 + moved), "fc": 1500.0 * (1 + moved)}
            # Of `fc` it is not defined, as of a layer of one neuron.
            excess = {"features.0": seed - 1 + 1e4 * moved, "features.3": 0.5, "fc": None}
            row["half_space_excess"] = excess
            row["largest_cosine"] = {"features.0": 0.4 + 100 * moved, "fc": 0.3}
            row["orthogonality_error"] = None if method == "standard" else 1e-6
        rows.append(row)
    return rows


def angles(moved: int = 0) -> list[int]:
    counts = [round(2000 * math.exp(-(((k - 17.5) / 3) ** 2))) for k in range(36)]
    counts[17] -= moved
    counts[10] += moved
    return counts


def geometry(row: dict[str, Any], counts: list[int]) -> Geometry:
    """What a result keeps of a row of metrics."""
    names = ("energy", "energy_excess", "half_space_excess", "largest_cosine")
    return Geometry(*(row.get(name) or {} for name in names), counts)


def fail(line: str) -> None:
    """For reading records that are all whole."""
    raise AssertionError(line)


def report(*tables: Comparison) -> Report:
    """A report without pictures, as the writers get it."""
    sections = [Section(table, sheet(table), sheet(table).notes, []) for table in tables]
    return Report("A title", "opt-report outputs", "2026-11-21", sections, [], [], [], "")


def writer(folder: Path) -> Write:
    """`write(method, seed)` writes a record below `folder`; with overrides of its config, a name of
    its own for the method, a status, an error, other rows of metrics, other fields of the result.
    """

    def write(
        method: str,
        seed: int,
        *overrides: str,
        name: str | None = None,
        status: str = "finished",
        error: str | None = None,
        rows: list[dict[str, Any]] | None = None,
        **fields: Any,
    ) -> Record:
        config = composed("tracking=none", f"method={method}", f"budget.steps={STEPS}", *overrides)
        config = config.model_copy(update={"seed": seed, "output_dir": str(folder)})
        content = config.content
        content["method"]["name"] = name or method
        record = Record(config.directory(f"{len(list(folder.rglob('config.yaml'))):012x}"))
        record.directory.mkdir(parents=True)
        record.config.write_text(yaml.safe_dump(content, sort_keys=False))
        record.command.write_text(f"opt-run method={method} seed={seed} note='<b>'\n")
        rows = metrics(method, seed) if rows is None else rows
        for row in rows:
            record.append_metrics(row)
        tests = [row for row in rows if "test_error" in row]
        result = Result(
            record.directory.name.partition("-")[2],
            name or method,
            config.model.name,
            config.dataset.name,
            seed,
            status,  # type: ignore[arg-type]
            error=error,
            device="cpu",
            versions={"opt_runner": "1", "torch": "2"},
        )
        if tests:
            result.steps = rows[-1]["step"]
            result.test_error = tests[-1]["test_error"]
            result.best_test_error = min(row["test_error"] or 100.0 for row in tests)
            result.train_loss = rows[-1].get("train_loss")
            result.train_error = 0.5
            result.tested = {"nll": 0.1, "calibration_error": 1.5}
            result.orthogonality_error = tests[-1]["orthogonality_error"]
            result.trainable_parameters = 40_000
            result.samples_per_second = 1234.5
            result.start = geometry(tests[0], angles())
            result.end = geometry(tests[-1], angles(60 if method == "standard" else 0))
        for field, value in fields.items():
            setattr(result, field, value)
        record.write_result(result)
        return record

    return write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """The tables of all that `write` has written."""
    return lambda: compare(stored.find([tmp_path], fail))


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """standard, gs and cayley with three seeds, hr with a failed and ls with a diverged run."""
    folder = tmp_path_factory.mktemp("records")
    write = writer(folder)
    for method in ERRORS:
        for seed in SEEDS:
            write(method, seed)
    write("hr", 0, status="failed", error=HOSTILE, rows=[])
    write("ls", 0, status="diverged", error="loss is not finite", rows=metrics("ls", 0, until=40))
    (table,) = compare(stored.find([folder], fail))
    return table
