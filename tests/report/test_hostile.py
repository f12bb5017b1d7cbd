"""Records may hold anything: each fault is a line, and no format obeys what a label says."""

import contextlib
import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from opt_runner.records import search, stored, tuned
from opt_runner.records.reading import printable
from opt_runner.records.record import Record
from opt_runner.records.result import Result
from opt_runner.report import terminal, trials
from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.dots import draw_conditions, families
from opt_runner.report.figures.search import draw_tuning
from opt_runner.report.figures.view import View
from opt_runner.report.tables import compare
from opt_runner.report.writers import WRITERS, explore
from opt_runner.report.writers.latex import escape
from tests.report.conftest import Write, report, writer
from tests.report.test_page import Reader
from tests.report.test_search import SEARCH

HOSTILE = [
    "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "<script>alert(1)</script>", "<!--",
    "[x](javascript:alert(1))", "![x](y)", "<javascript:alert(1)>", "a|b\n|c|", "`a`", "``` a",
    "_a_ *b* **c** ~~d~~", "&lt;b&gt;", r"\input{/etc/passwd}", r"a\\b", "# a #", "1. a", "- a",
    "$x$ ^^5d %", "\x1b[31mred\x1b]0;t\x07", "\x9b1m", "a\u202eb", "\ud800", "\udcff", "a\r\nb",
    "https://a.b", "\u2028", "'", '"><img src=x onerror=alert(1)>', "", " ", "\x00",
]  # fmt: skip
UNHURRIED = settings(deadline=None, max_examples=60)
TEXT = st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=()), max_size=30)
WRONG = [None, True, -1, 10**17, 0.5, "abc", "\ud800", "\x1b[1m", [], ["a"], [[]], {}, {"a": {}}]
RAW = ["1e400", "NaN", "9" * 5000, "[" * 20_000, '"\\ud800"', "{"]  # cannot be written by json


Written = Callable[[str, str], str]


@pytest.fixture(autouse=True, scope="module")
def _pages_without_packages() -> Iterator[None]:
    """5 MB of JavaScript in each page, which no record changes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(explore, "_kept", lambda package, name: "")
        yield


def named(table: Comparison, text: str) -> Comparison:
    """The table with a row, a key and a title of this text."""
    rows = [table.rows[0], replace(table.rows[1], label=text), *table.rows[2:]]
    return Comparison(text, table.model, {text: text}, rows)


@pytest.fixture(scope="session")
def written(table: Comparison) -> Callable[[str, str], str]:
    """Return a report's file of this name, of a table with this text in it."""
    return lambda name, text: WRITERS[name](report(named(table, text)))


@pytest.fixture(scope="session")
def shown(table: Comparison) -> Callable[[str], str]:
    """Return the table with this text in it as the terminal gets it."""

    def show(text: str) -> str:
        console = Console(width=200, force_terminal=False)
        with console.capture() as capture:
            console.print(terminal.table(named(table, text), 200)[0])
        return capture.get()

    return show


def one_line(text: str) -> str:
    return " ".join(printable(text).split())


@given(TEXT)
@UNHURRIED
def test_no_cell_of_the_csv_is_a_formula(written: Written, text: str) -> None:
    lines = written("report.csv", text)
    rows = list(csv.reader(lines.splitlines(keepends=True)))
    assert len({len(row) for row in rows}) == 1
    assert len(rows) == 1 + 3 * 3 + 2
    for row in rows[1:]:
        for cell in row[:5]:
            assert not cell.lstrip().startswith(("=", "+", "-", "@"))
        for cell in row[7:]:
            assert not cell or math.isfinite(float(cell))


@given(TEXT)
@UNHURRIED
def test_markdown_shows_text_as_it_is(written: Written, text: str) -> None:
    content = written("report.md", text)
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = parser.parse(content)
    inner = [one for token in tokens for one in token.children or ()]
    kinds = {one.type for one in inner}
    assert kinds <= {"text", "text_special", "code_inline", "strong_open", "strong_close"}
    assert sum(token.type == "table_open" for token in tokens) == 1
    assert not any(token.type == "html_block" for token in tokens)
    cells = [
        "".join(one.content for one in token.children or ())
        for token, before in zip(tokens[1:], tokens, strict=False)
        if before.type == "td_open"
    ]
    per_row = len(cells) // 5
    assert cells[per_row] == one_line(text)


@given(TEXT)
@UNHURRIED
def test_latex_obeys_no_character(text: str) -> None:
    harmless = (
        r"[^\\&%$#_{}~^<>|`\[\]±→\x00-\x1f\x7f]|\\[&%$#_{}]|\{\[\}|\{\]\}|"
        r"\$(?:\\pm|\\to|<|>|\||\|Q\^\{\\top\}Q-I\|)\$|"
        r"\\text(?:backslash|asciitilde|asciicircum|asciigrave)\{\}"
    )
    assert re.fullmatch(f"(?:{harmless})*", escape(text))


@given(TEXT)
@UNHURRIED
def test_html_shows_text_as_it_is(written: Written, text: str) -> None:
    content = written("report.html", text)
    content.encode()
    reader = Reader(content)
    plain = Reader(written("report.html", "plain"))
    assert [tag for tag, _ in reader.tags] == [tag for tag, _ in plain.tags]
    shown = printable(text).replace("\r", "\n")
    assert shown in reader.words or not shown.strip()


@given(TEXT)
@UNHURRIED
def test_json_is_json(written: Written, text: str) -> None:
    content = json.loads(written("report.json", text).encode())
    assert content["tables"][0]["rows"][1]["row"] == printable(text)


@given(TEXT)
@UNHURRIED
def test_the_terminal_is_not_commanded(shown: Callable[[str], str], text: str) -> None:
    lines = shown(text).splitlines()
    assert all(line.isprintable() for line in lines)
    assert len(lines) < 30


def wrong_values() -> list[str]:
    return [json.dumps(value) for value in WRONG] + RAW


def whole_report(folder: Path) -> tuple[list[str], list[str]]:
    """Make everything but the pictures; the faults, and the statuses of the runs."""
    faults: list[str] = []
    searches = search.find([folder], faults.append)
    tuned.superseded([folder], faults.append)
    runs = stored.find([folder], faults.append, allow_none=True)
    tables = compare(runs)
    for family in families(tables):
        draw_conditions(family)
    console = Console(width=100)
    for one in tables:
        faults += [line for line in terminal.faults(one) if "damaged" in line]
        with console.capture():
            console.print(terminal.table(one, 100)[0])
    for text in WRITERS.values():
        text(report(*tables)).encode()
    for one in searches:
        trials.counts(one)
        draw_tuning([one], {})
        with console.capture():
            console.print(trials.table(one))
            console.print(trials.settings_table([one]))
    assert all("\n" not in line for line in faults)
    return faults, [run.status for run in runs]


def overwritten(path: Path, key: tuple[Any, ...], raw: str) -> None:
    """Write JSON with this text in the place of a value."""
    content = json.loads(path.read_text())
    at = content
    for part in key[:-1]:
        at = at[part]
    at[key[-1]] = "@@"
    path.write_text(json.dumps(content).replace('"@@"', raw))


FIELDS = [(name,) for name in Result.__dataclass_fields__]
INNER = [("start", "energy"), ("end", "half_space_excess"), ("end", "angles"), ("measured", "x")]


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """A folder with a record for each wrong value, and one more."""
    folder = tmp_path_factory.mktemp("alike")
    write = writer(folder)
    return folder, [
        write("gs", seed, measured={"x": 1.0}) for seed in range(1 + len(wrong_values()))
    ]


@pytest.mark.parametrize("key", [*FIELDS, *INNER], ids=".".join)
def test_results_with_a_wrong_type_are_a_line_each_at_most(
    alike: tuple[Path, list[Record]], key: tuple[str, ...]
) -> None:
    folder, (_, *changed) = alike
    whole = [record.result.read_text() for record in changed]
    for record, raw in zip(changed, wrong_values(), strict=True):
        overwritten(record.result, key, raw)
    faults, statuses = whole_report(folder)
    for record, content in zip(changed, whole, strict=True):
        record.result.write_text(content)
    assert len(statuses) == 1 + len(changed)
    named = [str(record.result) for record in changed if str(record.result) in "\n".join(faults)]
    assert len(named) == len(faults) == statuses.count("damaged")


@pytest.mark.slow
@pytest.mark.parametrize("key", [*FIELDS, *INNER], ids=".".join)
def test_a_wrong_type_in_a_result_is_a_line_at_most(
    write: Write, tmp_path: Path, key: tuple[str, ...]
) -> None:
    write("standard", 0)
    path = write("gs", 0, measured={"x": 1.0}).result
    whole = path.read_text()
    for raw in wrong_values():
        overwritten(path, key, raw)
        faults, statuses = whole_report(tmp_path)
        assert len(statuses) == 2
        assert [str(path) in line for line in faults] == [True] * statuses.count("damaged"), raw
        path.write_text(whole)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"status": "finished"}', pytest.param("[" * 20_000, id="deep")]
)
def test_a_cut_result_is_named(write: Write, tmp_path: Path, content: str) -> None:
    path = write("gs", 0).result
    path.write_text(content)
    (fault,), statuses = whole_report(tmp_path)
    assert str(path) in fault
    assert statuses == ["damaged"]


OF_CONFIGS = [
    "seed", "method", "method.name", "model", "model.name", "dataset", "dataset.name",
    "dataset.share", "optimizer", "optimizer.lr", "schedule", "hardware", "hardware.precision",
    "batch_size", "budget.steps", "note", "layers",
]  # fmt: skip


def wrong_configs(content: str, key: str) -> list[str]:
    """Return the config as YAML with each wrong value in the place of this key's."""
    found = []
    *above, last = key.split(".")
    for value in [*WRONG, math.nan, math.inf]:
        changed = at = yaml.safe_load(content)
        for part in above:
            at = at[part]
        at[last] = value
        text = yaml.safe_dump(changed)
        with contextlib.suppress(UnicodeEncodeError):
            text.encode()
            found.append(text)
    return found


@pytest.mark.parametrize("key", OF_CONFIGS)
def test_configs_with_a_wrong_type_are_a_line_each_at_most(
    alike: tuple[Path, list[Record]], key: str
) -> None:
    folder, records = alike
    whole = [record.config.read_text() for record in records]
    for record, text in zip(records, wrong_configs(whole[0], key), strict=False):
        record.config.write_text(text)
    faults, statuses = whole_report(folder)
    for record, content in zip(records, whole, strict=True):
        record.config.write_text(content)
    named = [str(record.config) for record in records if str(record.config) in "\n".join(faults)]
    assert len(named) == len(faults) == len(records) - len(statuses)


@pytest.mark.slow
@pytest.mark.parametrize("key", OF_CONFIGS)
def test_a_wrong_type_in_a_config_is_a_line_at_most(write: Write, tmp_path: Path, key: str) -> None:
    write("standard", 0)
    path = write("gs", 0).config
    for text in wrong_configs(path.read_text(), key):
        path.write_text(text)
        faults, statuses = whole_report(tmp_path)
        assert len(faults) + len(statuses) == 2, text
        assert all(str(path) in line for line in faults)


def test_a_record_without_its_config_is_named(write: Write, tmp_path: Path) -> None:
    write("standard", 0)
    cut, lost, piped = (write("gs", seed) for seed in range(3))
    cut.config.write_bytes(cut.config.read_bytes()[:100])
    lost.config.unlink()
    piped.config.unlink()
    os.mkfifo(piped.config)
    (tmp_path / "of another program").mkdir()
    (tmp_path / "of another program/config.yaml").write_text("a: 1\n")
    faults, statuses = whole_report(tmp_path)
    assert statuses == ["finished"]
    assert len(faults) == 3
    told = "\n".join(faults)
    assert f"{cut.config} is damaged: " in told
    assert f"{lost.directory} has no config.yaml" in told
    assert f"{piped.config} is no regular file" in told


def test_pipes_in_the_place_of_files_are_not_waited_for(write: Write, tmp_path: Path) -> None:
    record = write("gs", 0)
    for path in (record.result, record.metrics, record.command):
        path.unlink()
        os.mkfifo(path)
    for name in (search.NAME, tuned.NAME):
        os.mkfifo(tmp_path / name)
    faults, statuses = whole_report(tmp_path)
    assert statuses == ["damaged"]
    (run,) = stored.find([tmp_path], faults.append)
    assert View(compare([run])[0], faults.append).curves == {}
    assert f"{record.metrics} is no regular file" in faults
    assert any(search.NAME in line for line in faults)
    assert any(tuned.NAME in line for line in faults)


@pytest.mark.parametrize("content", [b"{}\n", b"[1]\n", b'{"step": 1e400}\n', b"\xff\n", b"{\n"])
def test_damaged_metrics_are_named(write: Write, tmp_path: Path, content: bytes) -> None:
    record = write("gs", 0)
    record.metrics.write_bytes(content)
    faults: list[str] = []
    (table,) = compare(stored.find([tmp_path], faults.append))
    assert View(table, faults.append).curves == {}
    assert [str(record.metrics) in line for line in faults] == [True]


OF_SEARCHES: list[tuple[Any, ...]] = [
    ("name",), ("space",), ("trials",), ("label",), ("trials", 3),
    *(("trials", 3, field) for field in search.Trial.__dataclass_fields__),
    ("trials", 3, "parameters", "optimizer.lr"), ("space", "optimizer.lr"),
]  # fmt: skip


@pytest.mark.parametrize("key", OF_SEARCHES, ids=str)
def test_searches_with_a_wrong_type_are_a_line_each_at_most(
    tmp_path: Path, key: tuple[Any, ...]
) -> None:
    paths = [tmp_path / str(number) / search.NAME for number in range(len(wrong_values()))]
    for path, raw in zip(paths, wrong_values(), strict=True):
        path.parent.mkdir()
        SEARCH.write(path.parent)
        overwritten(path, key, raw)
    faults, _ = whole_report(tmp_path)
    assert len(faults) == sum(str(path) in "\n".join(faults) for path in paths)


@pytest.mark.slow
@pytest.mark.parametrize("key", OF_SEARCHES, ids=str)
def test_a_wrong_type_in_a_search_is_a_line_at_most(tmp_path: Path, key: tuple[Any, ...]) -> None:
    SEARCH.write(tmp_path)
    path = tmp_path / search.NAME
    whole = path.read_text()
    for raw in wrong_values():
        overwritten(path, key, raw)
        faults, _ = whole_report(tmp_path)
        assert [str(path) in line for line in faults] in ([], [True]), raw
        path.write_text(whole)


@pytest.mark.parametrize("key", [("gs",), ("gs", "setting"), ("gs", "runs"), ("gs", "former")])
def test_a_wrong_type_in_the_tuned_settings_is_a_line_at_most(
    tmp_path: Path, key: tuple[str, ...]
) -> None:
    path = tmp_path / tuned.NAME
    for raw in wrong_values():
        path.write_text('{"gs": {"setting": ["a=1"], "runs": ["b"], "former": []}}')
        overwritten(path, key, raw)
        faults, _ = whole_report(tmp_path)
        assert [str(path) in line for line in faults] in ([], [True]), raw


def test_names_that_are_not_utf8_are_shown(write: Write, tmp_path: Path) -> None:
    write("gs", 0)
    (tmp_path / "default").rename(tmp_path / os.fsdecode(b"\xff\xfe"))
    faults, statuses = whole_report(tmp_path)
    assert (faults, statuses) == ([], ["finished"])
