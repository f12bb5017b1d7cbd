"""Choices of groups go together on the command line."""

from itertools import cycle, product

import pytest

from opt_runner.config.compose import conf_dir, from_arguments

SCHEDULES = sorted(path.stem for path in conf_dir().glob("schedule/*.yaml"))
METHODS = sorted(path.stem for path in conf_dir().glob("method/*.yaml"))


# Of each method one schedule, of sopt all.
QUICK = [*zip(METHODS, cycle(SCHEDULES), strict=False), *product(["sopt"], SCHEDULES)]


@pytest.mark.parametrize(
    "pairs", [QUICK, pytest.param([*product(METHODS, SCHEDULES)], marks=pytest.mark.slow)],
    ids=["quick", "all"],
)  # fmt: skip
def test_every_method_has_every_schedule(pairs: list[tuple[str, str]]) -> None:
    """A method that set milestones did not go with a cosine."""
    for method, schedule in pairs:
        config = from_arguments(f"method={method}", f"schedule={schedule}")
        assert config.schedule.name == schedule


def test_sopt_has_milestones_at_the_ends_of_its_rounds() -> None:
    assert from_arguments("method=sopt").schedule.options["milestones"] == [0.4, 0.65, 0.85]
    assert from_arguments("method=gs").schedule.options["milestones"] == [0.4, 0.666667, 0.866667]


@pytest.mark.parametrize("method", ["standard", "cayley", "frame"])
def test_the_learning_rate_of_a_method_or_recipe_is_for_sgd_alone(method: str) -> None:
    """AdamW had the 0.01 of plain training."""
    for optimizer, lr in {"adamw": 1e-3, "muon": 1e-3, "soap": 3e-3, "lion": 1e-4}.items():
        for recipe in ("default", "reference"):
            words = [f"method={method}", f"optimizer={optimizer}", f"recipe={recipe}"]
            assert from_arguments(*words).optimizer.lr == lr
    assert from_arguments(f"method={method}").optimizer.lr == (
        0.01 if method == "standard" else 0.1
    )
    assert from_arguments(f"method={method}", "recipe=reference").optimizer.lr == 0.1
    assert from_arguments(f"method={method}", "optimizer=adamw", "optimizer.lr=1").optimizer.lr == 1
