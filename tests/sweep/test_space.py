"""What a search draws from: Hydra's grammar, and mistakes in it."""

import warnings
from typing import Any

import optuna
import pytest

from opt_runner.config.overrides import assignments, parse
from opt_runner.errors import UserError
from opt_runner.records.search import words
from opt_runner.sweep.space import Choices, Range, parse_space
from opt_runner.sweep.study import _distribution


@pytest.mark.parametrize(
    ("written", "parameter"),
    [
        ("interval(0,0.3)", Range(0.0, 0.3)),
        ("tag(log,interval(0.003,0.3))", Range(0.003, 0.3, log=True)),
        ("int(interval(16,64))", Range(16, 64, step=1)),
        ("tag(log,int(interval(1,100)))", Range(1, 100, log=True, step=1)),
        ("range(1,8)", Range(1, 7, step=1)),
        ("range(8,65,8)", Range(8, 64, step=8)),
        ("range(0.1,0.5,0.1)", Range(0.1, 0.4, step=0.1)),
        ("range(0.1,0.95,0.2)", Range(0.1, 0.9, step=0.2)),
        ("range(0.95,0.1,-0.2)", Range(0.15, 0.95, step=0.2)),
        ("gs,cayley,gs", Choices(("gs", "cayley"))),
        ("choice(a,b)", Choices(("a", "b"))),
        ("[16,16],[32]", Choices(("[16,16]", "[32]"))),
        ("null,0.5", Choices(("null", "0.5"))),
    ],
)
def test_every_form(written: str, parameter: Choices | Range) -> None:
    space = parse_space([f"key={written}", "fixed=1"])
    assert space.parameters == {"key": parameter}
    assert space.written == {"key": written}
    assert space.fixed == ["fixed=1"]


@pytest.mark.parametrize(
    ("written", "value", "word"),
    [
        ("true,false", True, "True"), ("0,1", True, None), ("0,1,2", 1.0, "1"),
        ("0.5,1e-3", 0.001, "0.001"), ("[16,16],[32]", [16, 16], "[16,16]"),
        ("null,2", None, "null"), ("a,b", "b", "b"),
        ("a,b", "c", None),
    ],
)  # fmt: skip
def test_the_choice_of_a_value(written: str, value: Any, word: str | None) -> None:
    choices = parse_space([f"key={written}"]).parameters["key"]
    assert choices.nearest(value) == word


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["lr=0.1"], "nothing to search: give at least one key as KEY=a,b,c or"),
        (["seed=interval(0,9)", "a=1,2"], "a search takes the mean over seeds (seed=0,1,2)"),
        (["lr=tag(lg,interval(1,2))"], "no tag 'lg', the only one is log"),
        (
            ["lr=tag(log,interval(0,1))"],
            "lr=tag(log,interval(0,1)): a logarithmic range must begin above 0",
        ),
        (["lr=interval(2,1)"], "lr=interval(2,1): the range begins above its end"),
        (["n=range(5,1)"], "n=range(5,1): the range is empty"),
        (["dataset=digits,mnist"], "a search has one dataset and one split of it"),
        (["dataset.validation=0.1,0.2"], "a search has one dataset and one split of it"),
    ],
)
def test_mistakes(overrides: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_space(overrides)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_seeds_are_the_runs_of_a_trial_and_not_searched() -> None:
    space = parse_space(["a=1,2", "seed=3,5,3"])
    assert space.seeds == [["seed=3"], ["seed=5"]]
    assert space.overrides({"a": "2"}, space.seeds[1]) == ["a=2", "seed=5"]
    assert parse_space(["a=1,2"]).seeds == [[]], "an experiment's own seed holds"


@pytest.mark.parametrize("written", ["range(0.1,0.95,0.2)", "range(0.1,0.55,0.3)", "range(1,8,3)"])
def test_a_search_draws_every_number_of_a_range(written: str) -> None:
    space = parse_space([f"a={written}"])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = {distribution_of(space.parameters["a"], study) for _ in range(60)}
    expected = [word.partition("=")[2] for word in assignments(parse(f"a={written}"))]
    assert sorted(values) == pytest.approx(sorted(map(float, expected)))


def distribution_of(parameter: Choices | Range, study: optuna.Study) -> float:
    return float(study.ask({"a": _distribution(parameter)}).params["a"])


def test_a_plus_makes_no_other_key() -> None:
    space = parse_space(["++a=1,2", "++seed=3", "+b=1", "b=2"])
    assert [*space.parameters] == ["++a"]
    assert space.seeds == [["++seed=3"]]
    assert space.fixed == ["b=2"]
    with pytest.raises(UserError, match="a search has one dataset"):
        parse_space(["++dataset.validation_seed=0,1"])


def test_the_last_of_a_key_given_twice_counts() -> None:
    space = parse_space(["a=1,2", "b=1", "a=interval(0,1)", "b=2"])
    assert space.parameters == {"a": Range(0.0, 1.0)}
    assert space.fixed == ["b=2"]


def test_corners_hold_every_choice_and_both_ends_of_every_interval() -> None:
    space = parse_space(["a=x,y,z", "b=interval(0,1)"])
    assert space.corners() == [
        {"a": "x", "b": 0.0}, {"a": "y", "b": 0.0}, {"a": "z", "b": 0.0}, {"a": "x", "b": 1.0},
    ]  # fmt: skip


def test_floats_are_short_enough_to_type() -> None:
    assert words({"a": 0.1 + 0.2, "b": 1e-5, "c": 16, "d": "x"}) == [
        "a=0.3", "b=1e-05", "c=16", "d=x",
    ]  # fmt: skip
