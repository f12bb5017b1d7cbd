"""What the figures show is what the records hold."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from opt_runner.report import plots
from opt_runner.report.comparison import Comparison
from opt_runner.report.statistics import Difference
from tests.report.conftest import ERRORS, SEEDS, STEPS, Tables, Write, metrics


def drawn(axes: Axes) -> dict[str, Line2D]:
    """The lines by what the legend calls them."""
    return {str(line.get_label()): line for line in axes.get_lines()}


def points(line: Line2D) -> dict[float, float]:
    x, y = (list(map(float, of)) for of in line.get_data())
    return dict(zip(x, y, strict=True))


def text(figure: Figure) -> str:
    """Everything written in it."""
    return "\n".join(found.get_text() for found in figure.findobj(match=is_text))


def is_text(artist: object) -> bool:
    return hasattr(artist, "get_text")


def test_curves_are_means_over_seeds(table: Comparison) -> None:
    figure = plots.curves(table)
    assert figure
    for axes, name in zip(figure.axes, ("test_error", "train_loss"), strict=True):
        lines = drawn(axes)
        assert set(lines) == {*ERRORS, "ls (diverged)"}
        for method in ERRORS:
            seeds = [
                {row["step"]: row[name] for row in metrics(method, seed) if name in row}
                for seed in SEEDS
            ]
            expected = {step: fmean(of[step] for of in seeds) for step in seeds[0]}
            assert points(lines[method]) == pytest.approx(expected)
        assert max(points(lines["ls (diverged)"])) == 40
        assert axes.get_yscale() == "log"
        assert len(axes.collections) == len(ERRORS)  # bands: not for the one seed of ls


def test_a_band_reaches_from_the_lowest_to_the_highest_seed(table: Comparison) -> None:
    figure = plots.curves(table)
    assert figure
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    at_the_end = [float(y) for x, y in band if x == STEPS]
    ends = [metrics("standard", seed)[-1]["test_error"] for seed in SEEDS]
    assert (min(at_the_end), max(at_the_end)) == pytest.approx((min(ends), max(ends)))


def test_energy_moves_for_standard_alone(table: Comparison) -> None:
    figure = plots.energy(table)
    assert figure
    (axes,) = figure.axes
    lines = {label.split()[0]: points(line) for label, line in drawn(axes).items()}
    assert set(lines["gs"].values()) == {0.0}
    sums = [
        [sum(metrics("standard", seed)[k]["energy"].values()) for k in (0, -1)] for seed in SEEDS
    ]
    expected = fmean(100 * (end / start - 1) for start, end in sums)
    assert lines["standard"][STEPS] == pytest.approx(expected)
    assert any(label.endswith(f"{expected:+.3f}%") for label in drawn(axes))


def test_rounding_of_the_energy_does_not_look_like_change(write: Write, tables: Tables) -> None:
    rows = metrics("gs", 0)
    rows[-1]["energy"]["fc"] *= 1 + 1e-8
    write("gs", 0, rows=rows)
    figure = plots.energy(tables()[0])
    assert figure
    low, high = figure.axes[0].get_ylim()
    assert low <= -0.01 < 0.01 <= high


def test_dots_are_means_intervals_and_seeds(table: Comparison) -> None:
    figure = plots.dots(table)
    assert figure
    (axes,) = figure.axes
    found = [[float(x) for x in line.get_xdata()] for line in axes.get_lines()]
    rows, means = {row.label: row for row in table.rows}, {}
    for method in ERRORS:
        values = rows[method].values("test_error")
        interval = Difference.paired(values, dict.fromkeys(values, 0.0))
        assert interval
        assert sorted(values.values()) in found
        assert [interval.mean] in found
        assert [interval.low, interval.high] in found
        means[method] = interval.mean
    assert [means["standard"]] * 2 in found  # the line where standard is
    assert [label.get_text() for label in axes.get_yticklabels()] == [r.label for r in table.rows]
    assert {"0 of 3: 1 failed, 2 missing", "0 of 3: 1 diverged, 2 missing"} == {
        found.get_text() for found in axes.texts
    }


def test_two_far_seeds_do_not_flatten_the_others(write: Write, tables: Tables) -> None:
    for seed, error in ((0, 2.0), (1, 3.0)):
        write("gs", seed, test_error=error)
    figure = plots.dots(tables()[0])
    assert figure
    low, high = figure.axes[0].get_xlim()
    assert 0 < low < 2
    assert 3 < high < 5


def test_angles_before_and_after(table: Comparison) -> None:
    figure = plots.angles(table)
    assert figure
    shown = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(shown) == list(ERRORS)
    for method, axes in shown.items():
        before, after = (patch.get_data().values for patch in axes.patches)
        assert sum(before) == pytest.approx(100)
        assert sum(after) == pytest.approx(100)
        assert (list(before) == list(after)) == (method != "standard")
    assert figure.axes[0].texts[0].get_text() != "changed\n0.00%"
    assert figure.axes[1].texts[0].get_text() == "changed\n0.00%"


def test_a_style_belongs_to_a_method(write: Write, tables: Tables) -> None:
    write("gs", 0)
    write("gs", 0, "optimizer.lr=0.01")
    write("cayley", 0)
    first, second, third = plots._styles(tables()[0])
    assert first.colour == second.colour == plots._STYLES["gs"].colour
    assert first.dashes != second.dashes
    assert third == plots._STYLES["cayley"]
    assert len({to_hex(style.colour) for style in plots._STYLES.values()}) == len(plots._STYLES)
    assert len({style.marker for style in plots._STYLES.values()}) == len(plots._STYLES)


@pytest.mark.parametrize(
    "content",
    [None, b'{"step": 0, "test_er\n{}\n', b"\xff\xfe\n", b"[1, 2]\n", b'{"step": null}\n', b"{}\n"],
)
def test_damaged_metrics_are_left_out(write: Write, tables: Tables, content: bytes | None) -> None:
    whole, damaged = write("gs", 0), write("gs", 1)
    damaged.metrics.unlink() if content is None else damaged.metrics.write_bytes(content)
    figure = plots.curves(tables()[0])
    assert figure
    rows = whole.read_metrics()
    expected = {row["step"]: row["test_error"] for row in rows if "test_error" in row}
    assert points(drawn(figure.axes[0])["gs"]) == pytest.approx(expected)
    whole.metrics.unlink()
    assert plots.curves(tables()[0]) is None
    assert plots.energy(tables()[0]) is None


def test_nulls_are_gaps(write: Write, tables: Tables) -> None:
    rows = metrics("gs", 0)
    rows[4]["test_error"] = None
    rows[4]["energy"]["fc"] = None
    rows[5]["train_loss"] = float("nan")
    write("gs", 0, rows=rows)
    (table,) = tables()
    curves, energy = plots.curves(table), plots.energy(table)
    assert curves
    assert energy
    assert 20 not in points(drawn(curves.axes[0])["gs"])
    assert 25 not in points(drawn(curves.axes[1])["gs"])
    (line,) = drawn(energy.axes[0]).values()
    assert set(points(line)) == {0, 40, 60, 80, 100}


def test_nothing_to_draw(write: Write, tables: Tables) -> None:
    write("hr", 0, status="failed", error="no", rows=[])
    for draw in (plots.curves, plots.energy, plots.dots, plots.angles):
        assert draw(tables()[0]) is None


def test_an_error_of_zero_is_drawn(write: Write, tables: Tables, tmp_path: Path) -> None:
    rows = metrics("gs", 0)
    rows[-1]["test_error"] = 0.0
    write("gs", 0, rows=rows)
    (table,) = tables()
    for draw in (plots.curves, plots.dots):
        figure = draw(table)
        assert figure
        plots.save(figure, tmp_path / "figure")


def test_labels_are_not_taken_for_mathematics(write: Write, tables: Tables, tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        write("gs", 0, f"optimizer.lr={lr}")
    (table,) = tables()
    for row in table.rows:
        object.__setattr__(row, "label", rf"{row.label} $\nothing{{ \x07 <b> &")
    for draw in (plots.curves, plots.energy, plots.dots, plots.angles):
        figure = draw(table)
        assert figure
        assert r"$\nothing" in text(figure)
        plots.save(figure, tmp_path / "figure")


def files(paths: Sequence[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def test_the_same_files_every_time(table: Comparison, tmp_path: Path) -> None:
    for draw in (plots.curves, plots.energy, plots.dots, plots.angles):
        first, second = draw(table), draw(table)
        assert first
        assert second
        paths = plots.save(first, tmp_path / "figure.1")
        assert [path.name for path in paths] == ["figure.1.png", "figure.1.svg"]
        assert files(paths) == files(plots.save(second, tmp_path / "figure.2"))
        svg = paths[1].read_text()
        assert ">standard" in svg  # words are words
        assert "<dc:date>" not in svg
