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
    assert from_arguments("method=gs").schedule.options["milestones"] == [0.4, 0.6667, 0.8667]
