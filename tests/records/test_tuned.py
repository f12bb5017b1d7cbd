"""tuned.json: which runs have the settings that a comparison found, and which have former ones."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opt_runner.errors import UserError
from opt_runner.records.search import SearchRecord
from opt_runner.records.tuned import Tuned, keep, read, superseded
from tests.report.conftest import fail


def test_runs_with_the_same_setting_add_up_and_another_setting_makes_them_former(
    tmp_path: Path,
) -> None:
    keep(tmp_path, {"gs": ["lr=1"], "hr": ["lr=2"]}, {"gs": ["a"], "hr": ["b"]})
    keep(tmp_path, {"gs": ["lr=1"]}, {"gs": ["c"]})
    assert read(tmp_path)["gs"] == Tuned(["lr=1"], ["a", "c"], [])
    assert superseded([tmp_path], fail) == set()
    keep(tmp_path, {"gs": ["lr=3"]}, {"gs": ["d"]})
    assert read(tmp_path)["gs"] == Tuned(["lr=3"], ["d"], ["a", "c"])
    assert superseded([tmp_path], fail) == {"a", "c"}
    keep(tmp_path, {"gs": ["lr=1"]}, {"gs": ["a"]})
    assert superseded([tmp_path], fail) == {"c", "d"}
    assert read(tmp_path)["hr"].runs == ["b"]


def test_what_is_the_best_of_one_comparison_is_not_former_for_another(tmp_path: Path) -> None:
    for name, first in (("one", "a"), ("two", "b")):
        (tmp_path / name).mkdir()
        keep(tmp_path / name, {"gs": ["lr=1"]}, {"gs": [first]})
    keep(tmp_path / "one", {"gs": ["lr=2"]}, {"gs": ["b"]})
    keep(tmp_path / "two", {"gs": ["lr=2"]}, {"gs": ["c"]})
    assert superseded([tmp_path], fail) == {"a"}


def test_a_comparison_that_grew_replaces_the_settings_of_the_first(tmp_path: Path) -> None:
    """Both tuned gs in one space: the last setting counts, in each table."""

    def run(name: str, data: str = "digits", seed: int = 0, momentum: float = 0.9) -> Any:
        keys = {"lr": name, "momentum": momentum}
        table = {"dataset.name": data}
        return SimpleNamespace(
            signature=name, table_keys=table, method_keys=keys, versions=("1",), seed=seed
        )

    runs = [run("a"), run("b"), run("c", data="cifar10"), run("d", seed=1), run("e", momentum=0)]

    def keeps(name: str, signatures: list[str], space: str) -> None:
        (tmp_path / name / "0-gs").mkdir(parents=True, exist_ok=True)
        SearchRecord(name, {"lr": space}, [], "gs").write(tmp_path / name / "0-gs")
        keep(tmp_path / name, {"gs": [f"lr={name}"]}, {"gs": signatures})

    keeps("one", ["a", "c", "d", "e"], "interval(0,1)")
    os.utime(tmp_path / "one/tuned.json", (1e9, 1e9))
    keeps("two", ["b"], "interval(0,1)")
    assert superseded([tmp_path], fail, runs) == {"a"}
    keeps("two", ["b"], "interval(0,2)")
    assert superseded([tmp_path], fail, runs) == set(), "another space is another entrant"
    (tmp_path / "two/0-gs/search.json").unlink()
    assert superseded([tmp_path], fail, runs) == set()


@pytest.mark.parametrize("content", ["", "[]", '{"gs": 1}', '{"gs": {"setting": []}}', "\xff"])
def test_a_damaged_one_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tuned.json").write_bytes(content.encode("latin-1"))
    faults: list[str] = []
    assert superseded([tmp_path], faults.append) == set()
    assert [line for line in faults if "tuned.json is damaged" in line] == faults != []
    with pytest.raises(UserError, match=r"tuned\.json is damaged"):
        keep(tmp_path, {}, {})
