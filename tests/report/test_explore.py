"""The page to explore, in a real browser: its charts, its tables, and no text that becomes code."""

import json
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from opt_runner.report import writers
from opt_runner.report.comparison import Comparison
from opt_runner.report.writers import explore
from tests.report.conftest import ERRORS, HOSTILE, SEEDS, Tables, Write
from tests.report.test_page import CHROMIUM

browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome")
# What a reader does and sees, as JSON at the end of the page.
PROBE = """
<script type="module">
const of = id => document.getElementById(id);
const shown = id => of(id).querySelectorAll("tbody tr").length;
const change = (id, name) => {
  const select = of(id);
  select.value = [...select.options].find(option => option.text === name).value;
  select.dispatchEvent(new Event("change"));
};
const found = {means: shown("means"), runs: shown("runs"), curves: of("curves-chart").data.length};
found.names = of("curves-chart").data.filter(one => one.showlegend).map(one => one.name);
found.hover = of("curves-chart").data[0].hovertemplate;
of("log-curves").click();
found.scale = of("curves-chart").layout.yaxis.type;
change("quantity", "change of the energy excess");
found.title = of("curves-chart").layout.yaxis.title.text;
change("x", "train loss");
found.scatter = of("scatter-chart").data.map(one => [one.x, one.y]);
await Plotly.restyle("curves-chart", {visible: "legendonly"}, [0]);
const filter = of("runs").querySelector("input[type=search]");
filter.value = "cayley";
filter.dispatchEvent(new Event("input"));
found.filtered = shown("runs");
found.links = [...of("runs").querySelectorAll("a")].map(link => link.getAttribute("href"));
found.wide = document.documentElement.scrollWidth - innerWidth;
document.title = JSON.stringify(found);
</script>
"""
# What is still chosen when the page has loaded anew.
AGAIN = """
<script type="module">
const of = id => document.getElementById(id);
const filter = () => of("runs").querySelector("input[type=search]");
if (!sessionStorage.again) {
  sessionStorage.again = 1;
  of("log-x").click();
  of("x").value = of("x").options.length - 1;
  of("x").dispatchEvent(new Event("change"));
  await Plotly.restyle("curves-chart", {visible: "legendonly"}, [0]);
  filter().value = "cayley";
  filter().dispatchEvent(new Event("input"));
  location.reload();
} else document.title = JSON.stringify({
  log: of("log-x").checked, x: +of("x").value + 1 - of("x").options.length, filter: filter().value,
  rows: of("runs").querySelectorAll("tbody tr").length,
  hidden: of("scatter-chart").data.map(one => one.visible),
});
</script>
"""
Seen = Callable[..., dict]


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    def look(content: str, width: int = 1400, probe: str = PROBE) -> dict:
        path = tmp_path / "explore.html"
        path.write_text(content.replace("</body>", probe + "</body>"))
        done = subprocess.run(
            [
                CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                f"--user-data-dir={tmp_path / 'browser'}", f"--window-size={width},2000",
                "--virtual-time-budget=8000", "--enable-logging=stderr", path.as_uri(),
            ],
            check=True, capture_output=True, timeout=120, text=True,
        )  # fmt: skip
        assert "CONSOLE" not in done.stderr, done.stderr
        return json.loads(unescape(done.stdout.partition("<title>")[2].partition("</title>")[0]))

    return look


def page(tables: list[Comparison], folder: Path = Path()) -> str:
    return explore.text(writers.collect(tables, "All", "opt-report", folder=folder))


@browser
def test_charts_and_tables_do_what_a_reader_asks(table: Comparison, seen: Seen) -> None:
    found = seen(page([table]))
    runs = len(ERRORS) * len(SEEDS) + 2
    assert found["means"] == len(table.rows)
    assert found["runs"] == runs
    assert found["curves"] == runs - 1, "a run that failed at its start has no curve"
    assert found["names"] == ["standard", "gs", "ls", "cayley"]
    assert "standard, seed 0: finished" in found["hover"]
    assert found["scale"] == "log"
    assert found["title"] == "change of the energy excess"
    errors = table.rows[0].values("test_error")
    assert found["scatter"][0][1] == pytest.approx([errors[seed] for seed in SEEDS], abs=0.005)
    assert found["filtered"] == len(SEEDS)
    record = table.rows[-1].runs[0].record.directory
    assert len(found["links"]) == len(SEEDS)
    assert found["links"][0].endswith(f"{record.parent.name}/{record.name}/")
    assert found["wide"] <= 0


@browser
def test_a_phone_shows_it_and_no_text_of_a_record_is_code(
    write: Write, tables: Tables, seen: Seen, tmp_path: Path
) -> None:
    evil = '</script><img src=x onerror="document.title=1"><b>'
    for seed in SEEDS:
        write("cayley", seed, name=evil, label=evil)
    write("gs", 0, status="failed", error=HOSTILE, rows=[])
    found = seen(page(tables(), tmp_path / "report"), width=500)
    assert found["runs"] == 4
    assert "<" not in found["names"][0].replace("<br>", "")
    assert found["wide"] <= 0


@browser
def test_what_was_chosen_stays_when_the_page_loads_anew(table: Comparison, seen: Seen) -> None:
    found = seen(page([table]), probe=AGAIN)
    assert found == {
        "log": True, "x": 0, "filter": "cayley", "rows": len(SEEDS),
        "hidden": ["legendonly", True, True],
    }  # fmt: skip


def test_many_curves_have_fewer_points(table: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    report = writers.collect([table], "All", "opt-report")
    whole = explore.text(report)
    monkeypatch.setattr(explore, "_POINTS", 0)
    assert len(explore.text(report)) < len(whole)
    assert explore._thinned([*range(101)], 5) == [0, 25, 50, 75, 100]


def test_a_page_of_nothing() -> None:
    assert "opt-report" in page([])
