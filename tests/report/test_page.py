"""The page is one file, whole and harmless, and shows what the table shows."""

import re
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from opt_runner.report import figures, writers
from opt_runner.report.columns import sheet
from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.canvas import as_bytes
from opt_runner.report.figures.view import View
from opt_runner.report.writers.html import text

# Those of HTML that have no end.
_VOID = {"meta", "br", "hr", "img", "link", "input"}
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Reader(HTMLParser):
    """Checks that elements nest, and keeps what is asked of below."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(*tables: Comparison) -> str:
    report = writers.collect(tables, "All methods", "opt-report outputs --title '<&>'")
    return text(report._replace(date="2026-11-21"))


@pytest.fixture(scope="session")
def content(table: Comparison) -> str:
    return page(table)


def test_it_is_well_formed_html(content: str) -> None:
    reader = Reader(content)
    assert reader.open == []
    assert content.startswith("<!DOCTYPE html>")
    content.encode()
    assert "\x00" not in content
    assert "\x1b" not in content


def test_it_holds_what_the_table_holds(content: str, table: Comparison) -> None:
    words = Reader(content).words
    shown = sheet(table)
    for cell in [*shown.headings, *shown.notes, *(cell for row in shown.cells for cell in row)]:
        assert cell in words
    assert "0 of 3: 1 failed, 2 missing" in words
    assert "opt-report outputs --title '<&>'" in words


def test_runs_that_did_not_finish_can_be_looked_into_and_repeated(
    content: str, table: Comparison
) -> None:
    reader = Reader(content)
    runs = [run for row in table.rows for run in row.runs if run.status != "finished"]
    assert len(reader.of("details")) == 1 + len(runs) == 3  # with the config
    for run in runs:
        assert str(run.record.directory) in reader.words
        assert f"opt-run method={run.method} seed={run.seed} note='<b>'" in reader.words
    assert "_target_: opt_runner.methods.Standard" in reader.words
    assert "hr, seed 0: failed" in reader.words
    assert "loss is not finite" in reader.words


def test_only_the_best_row_is_bold(table: Comparison, content: str) -> None:
    assert table.best is not None
    bold = re.findall(r'<tr class="best">\s*<th scope="row">(.*?)</th>', content)
    assert bold == [table.best.label] == ["cayley"]


def test_it_loads_and_runs_nothing(content: str) -> None:
    reader = Reader(content)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "svg"}
    for tag, attributes in reader.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "data", "action", "srcset"):
                own = "data:image/svg+xml;base64," if tag == "img" else "#"
                assert (value or "").startswith(own) or value == "explore.html"
    assert "@import" not in content
    assert "url(" not in content
    allowed = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    policy = {"http-equiv": "Content-Security-Policy", "content": allowed}
    assert policy in reader.of("meta")


def test_its_pictures_are_those_of_the_table(content: str, table: Comparison) -> None:
    images = Reader(content).of("img")
    drawn = figures.draw(View(table))
    assert len(images) == len(drawn) == len(figures.PICTURES)
    for image, (name, figure) in zip(images, drawn.items(), strict=True):
        assert image["alt"] == f"{figures.PICTURES[name].shows}: {table.title}"
        picture = b64decode((image["src"] or "").partition("base64,")[2])
        assert picture == as_bytes(figure, "svg")
        assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_hostile_error_is_only_text(content: str) -> None:
    assert "<script" not in content
    assert "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;" in content


@pytest.mark.slow
def test_several_tables_have_links(table: Comparison) -> None:
    reader = Reader(page(table, table))
    _, *targets = [attributes["href"] for attributes in reader.of("a")]
    assert targets == [f"#{attributes['id']}" for attributes in reader.of("section")]
    assert len(set(targets)) == 2


def test_the_same_page_every_time(table: Comparison, content: str) -> None:
    assert page(table) == content


def test_a_page_of_nothing() -> None:
    assert "No runs." in Reader(page()).words


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome")
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
                CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={tmp_path / 'browser'}", f"--screenshot={picture}",
                f"--window-size={size[0]},{size[1]}", path.as_uri(),
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        return picture

    return take
