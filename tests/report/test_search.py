"""Searches in a report: their best trials, and the picture of a fair comparison's."""

import re
from dataclasses import replace
from pathlib import Path

from opt_runner.records.search import SearchRecord, Trial, beaten, find, tunings
from opt_runner.report.figures.search import draw_tuning
from opt_runner.report.trials import counts, settings
from opt_runner.report.writers import collect, write
from tests.report.conftest import fail


def trial(
    number: int, value: float | None, status: str = "finished", **parameters: object
) -> Trial:
    errors = [] if value is None or status != "finished" else [value]
    return Trial(number, status, parameters, value, errors, [f"run{number}"])


SEARCH = SearchRecord(
    "search-1a2b3c4d",
    {"optimizer.lr": "tag(log,interval(0.01,1))", "method": "gs,cayley"},
    [
        trial(0, 9.0, **{"optimizer.lr": 0.02, "method": "gs"}),
        trial(1, 100.0, "diverged", **{"optimizer.lr": 0.9, "method": "gs"}),
        trial(2, None, "pruned", **{"optimizer.lr": 0.01, "method": "gs"}),
        trial(3, 3.0, **{"optimizer.lr": 0.1, "method": "cayley"}),
        trial(4, 3.0, **{"optimizer.lr": 0.2, "method": "cayley"}),
        trial(5, None, "not finished", **{"optimizer.lr": 0.2, "method": "cayley"}),
    ],
)


def test_the_first_of_the_best_leads_and_a_diverged_trial_is_not_ranked() -> None:
    assert [one.number for one in SEARCH.ranked()] == [3, 4, 0]
    assert beaten([SEARCH]) == {"run0", "run1", "run2", "run4", "run5"}
    told = "search-1a2b3c4d: trials: 3 finished, 1 pruned, 1 diverged, 1 not finished"
    assert counts(SEARCH) == told


def test_the_best_of_one_search_is_not_beaten_by_another() -> None:
    other = SearchRecord("other", {"a": "1,2"}, [trial(7, 1.0), SEARCH.trials[3]])
    assert beaten([SEARCH, other]) == {"run0", "run1", "run2", "run4", "run5"}
    assert beaten([]) == set()


def test_its_record_is_found_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    SEARCH.write(tmp_path / "inner")
    assert find([tmp_path, tmp_path / "inner"], fail) == [SEARCH]
    (tmp_path / "inner/search.json").write_text('{"name": 1}')
    faults: list[str] = []
    assert find([tmp_path], faults.append) == []
    (line,) = faults
    assert "search.json is damaged: name: " in line


def test_it_is_in_the_report(tmp_path: Path) -> None:
    write(collect([], "A search", "opt-report", [SEARCH], folder=tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "The best is trial 3, validation error 3.00%:" in page
    assert "<code>optimizer.lr=0.1 method=cayley</code>" in page
    rows = re.findall(
        r'<tr><th scope="row">(\d+)</th><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>', page
    )
    assert rows == [
        ("3", "0.1", "cayley", "3.00"), ("4", "0.2", "cayley", "3.00"), ("0", "0.02", "gs", "9.00"),
    ]  # fmt: skip


def entrant(label: str, *trials: Trial) -> SearchRecord:
    return SearchRecord("fair-1a2b3c4d", {}, [*trials], label)


ENTRANTS = [
    entrant(
        "gs",
        trial(0, 5.0, **{"optimizer.lr": 0.1, "optimizer.rotation_lr": 0.3}),
        trial(1, 4.0, **{"optimizer.lr": 0.02, "optimizer.rotation_lr": 1.5}),
        trial(2, 100.0, "diverged", **{"optimizer.lr": 0.2, "optimizer.rotation_lr": 3.0}),
    ),
    entrant("standard", trial(0, 6.0, **{"optimizer.lr": 0.01})),
]


def test_the_searches_of_a_fair_comparison_stand_together_and_none_of_their_runs_in_tables() -> (
    None
):
    (together,) = tunings([SEARCH, *ENTRANTS])
    assert [one.label for one in together] == ["standard", "gs"]
    assert beaten(ENTRANTS) == {"run0", "run1", "run2"}
    assert settings(together)[1] == [
        ["standard", "1", "6.00", "6.00", "6.00", "0", "optimizer.lr=0.01"],
        ["gs", "2", "4.00", "4.50", "5.00", "1", "optimizer.lr=0.02 optimizer.rotation_lr=1.5"],
    ]


def test_their_picture_has_a_panel_an_entrant_with_the_best_trial_ringed() -> None:
    figure = draw_tuning(ENTRANTS, {"gs": "#009E73"})
    assert figure is not None
    gs, standard = figure.axes
    assert gs.get_title("left") == "gs (1 diverged)"
    rotated, rest, ring = gs.lines
    assert list(rotated.get_xdata()) == [1.5, 0.3]
    assert list(rest.get_xdata()) == [0.02, 0.1]
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([1.5], [4.0])
    assert rotated.get_color() == "#009e73"
    by_network = draw_tuning([replace(ENTRANTS[0], label="cnn6 gs")], {"gs": "#009E73"})
    assert by_network is not None
    assert by_network.axes[0].lines[0].get_color() == "#009e73"
    assert list(standard.lines[-1].get_xdata()) == [0.01]
    assert draw_tuning([entrant("gs", ENTRANTS[0].trials[2])], {}) is None


def test_trials_that_learned_nothing_lie_above_the_axis_as_the_title_says() -> None:
    at = [trial(i, e, **{"optimizer.lr": 0.01 * 2**i}) for i, e in enumerate([40, 42, 45, 90])]
    figure = draw_tuning([entrant("standard", *at)], {})
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_title("left").split() == ["standard", "(1", "above,", "up", "to", "90)"]
    assert 45 < axes.get_ylim()[1] < 90


def test_they_are_in_the_report(tmp_path: Path) -> None:
    names = {
        path.name for path in write(collect([], "Fair", "opt-report", ENTRANTS, folder=tmp_path))
    }
    assert {"tuning.png", "tuning.svg"} <= names
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text()
        assert "fair-1a2b3c4d: where the settings came from" in text
        assert "optimizer.lr=0.02 optimizer.rotation_lr=1.5" in text
    write(collect([], "None", "opt-report", folder=tmp_path))
    assert not (tmp_path / "tuning.png").exists(), "that of a former report"
