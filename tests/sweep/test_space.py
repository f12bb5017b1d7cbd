"""What a search draws from: Hydra's grammar, and mistakes in it."""

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from opt_runner.errors import UserError
from opt_runner.records.search import words
from opt_runner.sweep.space import parse


@pytest.mark.parametrize(
    ("written", "distribution"),
    [
        ("interval(0,0.3)", FloatDistribution(0.0, 0.3)),
        ("tag(log,interval(0.003,0.3))", FloatDistribution(0.003, 0.3, log=True)),
        ("int(interval(16,64))", IntDistribution(16, 64)),
        ("tag(log,int(interval(1,100)))", IntDistribution(1, 100, log=True)),
        ("range(1,8)", IntDistribution(1, 7)),
        ("range(8,65,8)", IntDistribution(8, 64, step=8)),
        ("range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("gs,cayley,gs", CategoricalDistribution(["gs", "cayley"])),
        ("choice(a,b)", CategoricalDistribution(["a", "b"])),
        ("[16,16],[32]", CategoricalDistribution(["[16,16]", "[32]"])),
        ("null,0.5", CategoricalDistribution(["null", "0.5"])),
    ],
)
def test_every_form(written: str, distribution: BaseDistribution) -> None:
    space = parse([f"key={written}", "fixed=1"])
    assert space.distributions == {"key": distribution}
    assert space.written == {"key": written}
    assert space.fixed == ["fixed=1"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["lr=0.1"], "nothing to search: give at least one key as KEY=a,b,c or"),
        (["seed=interval(0,9)", "a=1,2"], "a search takes the mean over seeds, as seed=0,1,2"),
        (["lr=tag(lg,interval(1,2))"], "no tag 'lg', the only one is log"),
        (["lr=tag(log,interval(0,1))"], "lr=tag(log,interval(0,1)): `low > 0` must hold"),
        (["lr=interval(2,1)"], "lr=interval(2,1): `low <= high` must hold"),
        (["n=range(5,1)"], "n=range(5,1): the range is empty"),
        (["dataset=digits,mnist"], "a search is of one dataset and one split of it"),
        (["dataset.validation=0.1,0.2"], "a search is of one dataset and one split of it"),
    ],
)
def test_mistakes(overrides: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(overrides)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_seeds_are_the_runs_of_a_trial_and_not_searched() -> None:
    space = parse(["a=1,2", "seed=3,5,3"])
    assert space.seeds == [["seed=3"], ["seed=5"]]
    assert space.overrides({"a": "2"}, space.seeds[1]) == ["a=2", "seed=5"]
    assert parse(["a=1,2"]).seeds == [[]], "an experiment's own seed holds"


def test_the_last_of_a_key_given_twice_counts() -> None:
    space = parse(["a=1,2", "b=1", "a=interval(0,1)", "b=2"])
    assert space.distributions == {"a": FloatDistribution(0.0, 1.0)}
    assert space.fixed == ["b=2"]


def test_ends_hold_every_choice_and_both_ends_of_every_interval() -> None:
    space = parse(["a=x,y,z", "b=interval(0,1)"])
    assert space.first() == {"a": "x", "b": 0.0}
    assert space.ends() == [{"a": "y", "b": 0.0}, {"a": "z", "b": 0.0}, {"a": "x", "b": 1.0}]


def test_floats_are_short_enough_to_type() -> None:
    assert words({"a": 0.1 + 0.2, "b": 1e-5, "c": 16, "d": "x"}) == [
        "a=0.3", "b=1e-05", "c=16", "d=x",
    ]  # fmt: skip
