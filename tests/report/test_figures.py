"""What the figures show is what the records hold."""

from dataclasses import replace
from statistics import fmean

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from opt_runner.report import figures
from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.angles import draw_angles
from opt_runner.report.figures.canvas import as_bytes
from opt_runner.report.figures.curves import draw_curves, draw_energy, draw_speed
from opt_runner.report.figures.dots import draw_conditions, draw_dots, families
from opt_runner.report.figures.scatter import draw_cost, draw_generalisation
from opt_runner.report.figures.view import MOST_ROWS, View
from opt_runner.report.statistics import Difference
from tests.report.conftest import ERRORS, SEEDS, STEPS, Tables, Write, metrics


def lines(axes: Axes) -> dict[str, Line2D]:
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
    figure = draw_curves(View(table))
    assert figure
    for axes, name in zip(figure.axes, ("test_error", "train_loss"), strict=True):
        found = lines(axes)
        assert set(found) == {*ERRORS, "ls (diverged)"}
        for method in ERRORS:
            seeds = [
                {row["step"]: row[name] for row in metrics(method, seed) if name in row}
                for seed in SEEDS
            ]
            expected = {step: fmean(of[step] for of in seeds) for step in seeds[0]}
            assert points(found[method]) == pytest.approx(expected)
        assert max(points(found["ls (diverged)"])) == 40
        assert axes.get_yscale() == "log"
        assert len(axes.collections) == len(ERRORS)  # bands: not for the one seed of ls


def test_a_band_reaches_from_the_lowest_to_the_highest_seed(table: Comparison) -> None:
    figure = draw_curves(View(table))
    assert figure
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    at_the_end = [float(y) for x, y in band if x == STEPS]
    ends = [metrics("standard", seed)[-1]["test_error"] for seed in SEEDS]
    assert (min(at_the_end), max(at_the_end)) == pytest.approx((min(ends), max(ends)))


def test_many_methods_have_panels_by_family(write: Write, tables: Tables) -> None:
    families = {
        "OPT": ["gs", "hr", "ls", "cayley", "ogd"], "maps": ["oft", "boft"],
        "penalties": ["mhe", "so", "srip"], "starts": ["orthogonal_init"], "other": ["mine"],
    }  # fmt: skip
    write("standard", 0)
    for methods in families.values():
        for method in methods:
            write("gs" if method == "mine" else method, 0, name=method)
    (table,) = tables()
    figure = draw_curves(View(table))
    assert figure
    for family, (left, right) in zip(
        families, zip(figure.axes[::2], figure.axes[1::2], strict=True), strict=True
    ):
        for axes in (left, right):
            assert set(lines(axes)) == {"standard", *families[family]}
            assert axes.get_title(loc="left").startswith(f"{family}: ")
            assert axes.get_xlim() == pytest.approx((0, 1.02 * STEPS))
        legend = right.get_legend()
        assert legend is not None
        assert [entry.get_text() for entry in legend.get_texts()] == [
            "standard", *families[family]
        ]  # fmt: skip
    assert as_bytes(figure, "svg")


def test_the_energy_excess_moves_for_standard_alone(table: Comparison) -> None:
    figure = draw_energy(View(table))
    assert figure
    axes, cosines = figure.axes
    assert points(lines(cosines)["gs"])[STEPS] == 0
    assert points(lines(cosines)["standard"])[STEPS] > 0.01
    assert "energy excess" in axes.get_title(loc="left")
    found = {label: points(line) for label, line in lines(axes).items()}
    assert set(found) == {*ERRORS, "ls (diverged)"}
    assert set(found["gs"].values()) == {0.0}
    # features.0 moves, features.3 does not, fc has no excess.
    expected = fmean(
        (rows[-1]["half_space_excess"]["features.0"] - rows[0]["half_space_excess"]["features.0"])
        / 2
        for rows in (metrics("standard", seed) for seed in SEEDS)
    )
    assert expected > 1
    assert found["standard"][STEPS] == pytest.approx(expected)


def test_rounding_of_the_energy_does_not_look_like_change(write: Write, tables: Tables) -> None:
    rows = metrics("gs", 0)
    rows[-1]["half_space_excess"]["features.0"] += 1e-6
    write("gs", 0, rows=rows)
    figure = draw_energy(View(tables()[0]))
    assert figure
    low, high = figure.axes[0].get_ylim()
    assert low <= -0.05 < 0.05 <= high


def test_dots_are_means_intervals_and_seeds(table: Comparison) -> None:
    figure = draw_dots(View(table))
    assert figure
    (axes,) = figure.axes
    found = [[float(x) for x in line.get_xdata()] for line in axes.get_lines()]
    for row in table.rows:
        values = row.values("test_error")
        interval = Difference.paired(values, dict.fromkeys(values, 0.0))
        if interval:
            assert sorted(values.values()) in found
            assert [interval.mean] in found
            assert [interval.low, interval.high] in found
    assert table.baseline
    assert [fmean(table.baseline.values("test_error").values())] * 2 in found  # a line to compare
    assert [label.get_text() for label in axes.get_yticklabels()] == [r.label for r in table.rows]
    assert {"0 of 3: 1 failed, 2 missing", "0 of 3: 1 diverged, 2 missing"} == {
        found.get_text() for found in axes.texts
    }


def test_two_far_seeds_do_not_flatten_the_others(write: Write, tables: Tables) -> None:
    for seed, error in ((0, 2.0), (1, 3.0)):
        write("gs", seed, test_error=error)
    figure = draw_dots(View(tables()[0]))
    assert figure
    low, high = figure.axes[0].get_xlim()
    assert 0 < low < 2
    assert 3 < high < 5


def test_angles_before_and_after(table: Comparison) -> None:
    figure = draw_angles(View(table))
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


@pytest.mark.parametrize(
    "content",
    [None, b'{"step": 0, "test_er\n{}\n', b"\xff\xfe\n", b"[1, 2]\n", b'{"step": null}\n', b"{}\n"],
)
def test_damaged_metrics_are_left_out(write: Write, tables: Tables, content: bytes | None) -> None:
    whole, damaged = write("gs", 0), write("gs", 1)
    damaged.metrics.unlink() if content is None else damaged.metrics.write_bytes(content)
    figure = draw_curves(View(tables()[0]))
    assert figure
    rows = whole.read_metrics()
    expected = {row["step"]: row["test_error"] for row in rows if "test_error" in row}
    assert points(lines(figure.axes[0])["gs"]) == pytest.approx(expected)
    whole.metrics.unlink()
    assert draw_curves(View(tables()[0])) is None
    assert draw_energy(View(tables()[0])) is None


def test_nulls_are_gaps(write: Write, tables: Tables) -> None:
    rows = metrics("gs", 0)
    rows[4]["test_error"] = None
    rows[4]["half_space_excess"]["features.3"] = None
    rows[5]["train_loss"] = float("nan")
    write("gs", 0, rows=rows)
    (table,) = tables()
    of_curves, of_energy = draw_curves(View(table)), draw_energy(View(table))
    assert of_curves
    assert of_energy
    assert 20 not in points(lines(of_curves.axes[0])["gs"])
    assert 25 not in points(lines(of_curves.axes[1])["gs"])
    (line,) = lines(of_energy.axes[0]).values()
    assert set(points(line)) == {0, 40, 60, 80, 100}


def test_nothing_to_draw(write: Write, tables: Tables) -> None:
    write("hr", 0, status="failed", error="no", rows=[])
    assert figures.draw(View(tables()[0])) == {}


def test_an_error_of_zero_is_drawn(write: Write, tables: Tables) -> None:
    rows = metrics("gs", 0)
    rows[-1]["test_error"] = 0.0
    write("gs", 0, rows=rows)
    (table,) = tables()
    for draw in (draw_curves, draw_dots):
        figure = draw(View(table))
        assert figure
        assert as_bytes(figure, "svg")


def test_labels_are_not_taken_for_mathematics(write: Write, tables: Tables) -> None:
    for lr in (0.1, 0.2):
        write("gs", 0, f"optimizer.lr={lr}")
    (table,) = tables()
    rows = [replace(row, label=rf"{row.label} $\nothing{{ \x07 <b> &") for row in table.rows]
    table = replace(table, rows=rows)
    drawn = figures.draw(View(table))
    assert list(drawn) == list(figures.PICTURES)
    for figure in drawn.values():
        assert r"$\nothing" in text(figure)
        assert as_bytes(figure, "svg")


def test_the_same_files_every_time(table: Comparison) -> None:
    first, second = figures.draw(View(table)), figures.draw(View(table))
    assert list(first) == list(second) == list(figures.PICTURES)
    for name, figure in first.items():
        svg = as_bytes(figure, "svg")
        assert svg == as_bytes(second[name], "svg")
        assert b"<dc:date>" not in svg
    name = next(iter(first))
    assert as_bytes(first[name], "png") == as_bytes(second[name], "png")


def test_speed_is_the_curves_against_the_seconds_of_their_steps(table: Comparison) -> None:
    figure = draw_speed(View(table))
    assert figure
    loss, error = figure.axes
    for axes, name in ((loss, "train_loss"), (error, "test_error")):
        found = {round(50 * s): value for s, value in points(lines(axes)["gs"]).items()}
        seeds = [
            {row["step"]: row[name] for row in metrics("gs", seed) if name in row} for seed in SEEDS
        ]
        # The rows' seconds are a fiftieth of their steps.
        expected = {step: fmean(of[step] for of in seeds) for step in seeds[0]}
        assert found == pytest.approx(expected)


def test_an_error_that_is_known_at_the_end_alone_is_no_curve(write: Write, tables: Tables) -> None:
    rows = [
        {key: value for key, value in row.items() if key != "test_error" or row["step"] == STEPS}
        for row in metrics("gs", 0)
    ]
    write("gs", 0, rows=rows)
    figure = draw_speed(View(tables()[0]))
    assert figure
    assert [axes.get_title("left") for axes in figure.axes] == ["train loss, log scale"]


@pytest.mark.parametrize("methods", [["gs"], [f"mine{i}" for i in range(13)]])
def test_with_one_test_at_the_end_the_curves_are_those_of_the_loss(
    write: Write, tables: Tables, methods: list[str]
) -> None:
    rows = metrics("gs", 0)
    for row in rows[:-1]:
        row.pop("test_error", None)
    for method in methods:
        write("gs", 0, name=method, rows=rows)
    figure = draw_curves(View(tables()[0]))
    assert figure
    assert len(figure.axes) == (len(methods) + 11) // 12
    for axes in figure.axes:
        assert axes.get_title("left").endswith("train loss, log scale")


def test_generalisation_shows_both_errors_and_the_calibration(write: Write, tables: Tables) -> None:
    for method, gap in (("standard", 2.0), ("gs", 1.0)):
        for seed in SEEDS:
            numbers = {"nll": 0.5, "calibration_error": gap}
            test = 1.0 + seed + gap
            write(method, seed, train_error=1.0 + seed, test_error=test, tested=numbers)
    figure = draw_generalisation(View(tables()[0]))
    assert figure
    errors, calibration = figure.axes
    assert points(lines(errors)["gs"]) == {2.0: 3.0}
    assert points(lines(errors)["standard"]) == {2.0: 4.0}
    assert points(lines(calibration)["gs"]) == {0.5: 1.0}


@pytest.mark.parametrize("unknown", ["train_error", "test_error"])
def test_of_records_without_both_errors_there_is_no_such_picture(
    write: Write, tables: Tables, unknown: str
) -> None:
    write("gs", 0, **{unknown: None})
    assert draw_generalisation(View(tables()[0])) is None


def test_conditions_stand_side_by_side(write: Write, tables: Tables) -> None:
    for seed in SEEDS:
        write("gs", seed, test_error=3.0)
        write("gs", seed, "dataset.share=0.1", test_error=9.0 + seed)
        write("gs", seed, "dataset.label_noise=0.2", test_error=7.0)
    (family,) = families(tables())
    figure = draw_conditions(family)
    assert [axes.get_title("left") for axes in figure.axes] == [
        "all images", "10% of the images", "20% wrong labels",
    ]  # fmt: skip
    assert [points(axes.get_lines()[-1]) for axes in figure.axes] == [{3.0: 0}, {10.0: 0}, {7.0: 0}]


def test_a_condition_of_all_tables_is_in_their_titles(write: Write, tables: Tables) -> None:
    for seed in SEEDS:
        write("gs", seed, "dataset.share=0.1")
        write("gs", seed, "dataset.share=0.1", "dataset.label_noise=0.2")
    (family,) = families(tables())
    assert [axes.get_title("left") for axes in draw_conditions(family).axes] == [
        "10% of the images", "10% of the images,\n20% wrong labels",
    ]  # fmt: skip


def test_a_condition_may_change_other_keys(write: Write, tables: Tables) -> None:
    for seed in SEEDS:
        write("gs", seed)
        write("gs", seed, "dataset.share=0.1", "batch_size=32")
        write("gs", seed, "dataset.label_noise=0.2")
    (family,) = families(tables())
    assert [axes.get_title("left") for axes in draw_conditions(family).axes] == [
        "all images", "10% of the images,\nbatch_size=32", "20% wrong labels",
    ]  # fmt: skip


def test_curves_end_with_the_first_seed(write: Write, tables: Tables) -> None:
    for seed, until in ((0, STEPS), (1, 40)):
        write("gs", seed, rows=metrics("gs", seed, until=until))
    (table,) = tables()
    figure = draw_curves(View(table))
    assert figure
    for axes in figure.axes[:2]:
        assert max(points(lines(axes)["gs"])) == 40


def test_tables_that_differ_otherwise_are_no_conditions(write: Write, tables: Tables) -> None:
    write("gs", 0)
    write("gs", 0, "batch_size=64")
    write("gs", 0, "batch_size=32", "dataset.share=0.1")
    assert families(tables()) == []
    write("gs", 0, "batch_size=64", "dataset.share=0.5", test_error=None)
    assert families(tables()) == []
    write("gs", 0, "batch_size=64", "dataset.share=0.1")
    (family,) = families(tables())
    assert {table.differs["batch_size"] for table in family} == {64}


def test_cost_shows_time_and_numbers_that_train(write: Write, tables: Tables) -> None:
    for method, rate, numbers in (("standard", 1000.0, 500), ("cayley", 500.0, 2000)):
        write(method, 0, test_error=5.0, samples_per_second=rate, trainable_parameters=numbers)
    figure = draw_cost(View(tables()[0]))
    assert figure is not None
    time, trained = figure.axes
    assert {name: points(line) for name, line in lines(time).items()} == {
        "standard": {1.0: 5.0}, "cayley": {2.0: 5.0}
    }  # fmt: skip
    assert {name: points(line) for name, line in lines(trained).items()} == {
        "standard": {500: 5.0}, "cayley": {2000: 5.0}
    }  # fmt: skip


def test_a_row_far_from_all_others_does_not_flatten_them_and_is_hollow_at_the_edge(
    write: Write, tables: Tables
) -> None:
    """90% is what a method has that has learned nothing."""
    for method, error in (("standard", 5.0), ("gs", 6.0), ("hr", 7.0), ("ls", 90.0)):
        write(method, 0, test_error=error, train_error=1.0)
    figure = draw_generalisation(View(tables()[0]))
    assert figure is not None
    errors = figure.axes[0]
    assert 7 < errors.get_ylim()[1] < 10
    far = lines(errors)["ls"]
    assert points(far) == {1.0: 7.0}
    assert far.get_fillstyle() == "none"


def test_zeros_do_not_put_all_others_outside(write: Write, tables: Tables) -> None:
    for method, error in (("standard", 0.0), ("gs", 0.0), ("hr", 0.0), ("ls", 0.1), ("or", 0.2)):
        write(method, 0, test_error=1.0, train_error=error)
    figure = draw_generalisation(View(tables()[0]))
    assert figure is not None
    assert figure.axes[0].get_xlim()[1] > 0.2
    assert {line.get_fillstyle() for line in figure.axes[0].get_lines()} == {"full"}


def test_errors_that_are_all_0_have_an_axis_without_errors_below_0(
    write: Write, tables: Tables
) -> None:
    for method in ("standard", "gs"):
        write(method, 0, test_error=1.0, train_error=0.0)
    figure = draw_generalisation(View(tables()[0]))
    assert figure is not None
    axes = figure.axes[0]
    figure.canvas.draw()
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high and tick < 0] == []


def test_a_number_that_no_row_has_beside_the_other_has_no_panel(
    write: Write, tables: Tables
) -> None:
    write("standard", 0, test_error=5.0, samples_per_second=None, trainable_parameters=500)
    write("gs", 0, test_error=None, samples_per_second=100.0, trainable_parameters=500)
    write("hr", 0, test_error=5.0, samples_per_second=None, trainable_parameters=500)
    figure = draw_cost(View(tables()[0]))
    assert figure is not None
    assert [axes.get_xlabel() for axes in figure.axes] == ["numbers that train, log scale"]


def test_a_large_family_has_several_lines_of_panels(write: Write, tables: Tables) -> None:
    write("standard", 0)
    for number in range(20):
        write("gs", 0, f"optimizer.lr={0.01 * (number + 1):.2f}")
    figure = draw_curves(View(tables()[0]))
    assert figure
    assert len(figure.axes) == 4
    assert as_bytes(figure, "svg")


def test_of_many_rows_the_lowest_and_standard_are_drawn_and_the_picture_says_so(
    write: Write, tables: Tables
) -> None:
    count = MOST_ROWS + 3
    write("standard", 0, test_error=99.0)
    for number in range(count - 1):
        error = None if number == 7 else 50.0 - number / 10
        write("gs", 0, name=f"own{number:02}", rows=[], test_error=error)
    (table,) = tables()
    view = View(table)
    assert len(view.rows) == MOST_ROWS
    left_out = {row.label for row in table.rows} - {row.label for row in view.rows}
    assert left_out == {"own00", "own01", "own07"}
    assert view.rows[0].label == "standard"
    figure = draw_dots(view)
    assert figure
    said = f"drawn: {MOST_ROWS} of {count} rows, the lowest error and standard"
    assert said in " ".join(text(figure).split())
