"""The page is one file, whole and harmless, and shows what the table shows."""

import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from opt_runner.report import plots
from opt_runner.report.comparison import NOTES, Comparison, columns
from opt_runner.report.page import page
from tests.report.conftest import SEEDS

# Those of HTML that have no end.
_VOID = {"meta", "br", "hr", "img", "link", "input"}
_CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Reader(HTMLParser):
    """Checks that elements nest, and keeps what is asked of below."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.bold: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> is no end of an element in HTML"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(table: Comparison) -> str:
    command = "opt-report outputs --title '<&>'"
    return page([table], [plots.drawn(table)], "All methods", command, "2026-11-21")


@pytest.fixture(scope="session")
def content(table: Comparison) -> str:
    return page_of(table)


def test_it_is_well_formed_html(content: str) -> None:
    reader = Reader(content)
    assert reader.open == []
    assert content.startswith("<!DOCTYPE html>")
    content.encode()
    assert "\x00" not in content
    assert "\x1b" not in content


def test_it_holds_what_the_table_holds(content: str, table: Comparison) -> None:
    words = Reader(content).words
    for heading, show in columns():
        assert heading in words
        for row in table.rows:
            assert show(table, row) in words
    for note in NOTES:
        assert note in words
    assert "0 of 3: 1 failed, 2 missing" in words
    assert "opt-report outputs --title '<&>'" in words


def test_every_cell_can_be_looked_into_and_repeated(content: str, table: Comparison) -> None:
    reader = Reader(content)
    cells = [cell for row in table.rows for cell in row.cells]
    assert len(reader.of("details")) == len(cells) == 3 * len(SEEDS) + 2
    for cell in cells:
        assert str(cell.record.directory) in reader.words
        assert f"opt-run method={cell.method} seed={cell.seed} note='<b>'" in reader.words
    assert "_target_: opt_runner.methods.Cayley" in reader.words
    assert "hr, seed 0: failed" in reader.words
    assert "loss is not finite" in reader.words


def test_only_the_best_row_is_bold(table: Comparison, content: str) -> None:
    assert table.best is not None
    bold = re.findall(r'<tr class="best"><th scope="row">(.*?)</th>', content)
    assert bold == [table.best.label] == ["cayley"]


def test_it_loads_and_runs_nothing(content: str) -> None:
    reader = Reader(content)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "img", "object"}
    for _, attributes in reader.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                assert (value or "").startswith("#")
            if name.startswith("xmlns"):
                continue
            assert not re.search(r"url\((?!#)", value or "")
    assert "@import" not in content
    assert not re.search(r"url\((?!#)", content)


def test_a_hostile_error_is_only_text(content: str) -> None:
    assert "<script" not in content
    assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;" in content


def test_pictures_do_not_share_ids(table: Comparison) -> None:
    reader = Reader(page([table, table], [plots.drawn(table)] * 2, "Twice", "opt-report", "today"))
    pictures = reader.of("svg")
    assert len(pictures) == 8
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for picture in pictures:
        assert picture["role"] == "img"
        assert picture["aria-labelledby"] in ids
    for _, attributes in reader.tags:
        for name, value in attributes.items():
            for target in re.findall(r"url\(#(.*?)\)", value or ""):
                assert target in ids
            if name == "href":
                assert (value or "").removeprefix("#") in ids


def test_the_same_page_every_time(table: Comparison, content: str) -> None:
    assert page_of(table) == content


def test_a_page_of_nothing() -> None:
    assert "No cells." in Reader(page([], [], "Empty", "opt-report", "today")).words


@pytest.mark.skipif(_CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome")
@pytest.mark.parametrize("size", [(1280, 2400), (400, 800)], ids=["screen", "phone"])
def test_a_browser_shows_it(
    content: str, tmp_path: Path, size: tuple[int, int], screenshot: Callable[..., Path]
) -> None:
    path = tmp_path / "page.html"
    path.write_text(content)
    with Image.open(screenshot(path, size)) as picture:
        assert picture.size == size
        colours = picture.convert("RGB").getcolors(maxcolors=size[0] * size[1])
    assert colours
    most = max(count for count, _ in colours)
    assert len(colours) > 50  # letters and lines, with their soft edges
    assert most < 0.98 * size[0] * size[1]


@pytest.fixture
def screenshot(tmp_path: Path) -> Callable[..., Path]:
    def take(path: Path, size: tuple[int, int]) -> Path:
        picture = tmp_path / "page.png"
        subprocess.run(
            [
                _CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={tmp_path / 'browser'}", f"--screenshot={picture}",
                f"--window-size={size[0]},{size[1]}", path.as_uri(),
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        return picture

    return take
