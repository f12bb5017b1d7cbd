"""The title of a run says what differs in its sweep."""

import pytest

from opt_runner.config.compose import from_arguments
from opt_runner.config.titles import SWEEP_VARIABLE, of_sweep, sweep_variable, title


@pytest.mark.parametrize(
    ("runs", "titles"),
    [
        (["method=gs method.start=normal", "method=gs method.start=identity"],
         ["gs cnn6 digits seed 0 method.start=normal",
          "gs cnn6 digits seed 0 method.start=identity"]),
        (["method=gs dataset.share=0.5", "method=gs dataset.share=1"],
         ["gs cnn6 digits seed 0 dataset.share=0.5", "gs cnn6 digits seed 0 dataset.share=1"]),
        (["method=gs seed=0", "method=hr seed=1"],
         ["gs cnn6 digits seed 0", "hr cnn6 digits seed 1"]),
        (["method=gs", "method=standard"],  # of another lr
         ["gs cnn6 digits seed 0", "standard cnn6 digits seed 0"]),
        (["method=gs", "method=standard", "method=standard optimizer.lr=0.3"],
         ["gs cnn6 digits seed 0 optimizer.lr=0.1", "standard cnn6 digits seed 0 optimizer.lr=0.01",
          "standard cnn6 digits seed 0 optimizer.lr=0.3"]),
        (["schedule.milestones=[0.5]", "schedule.milestones=[0.2,0.4]"],
         ["cayley cnn6 digits seed 0 schedule.milestones=[0.5]",
          "cayley cnn6 digits seed 0 schedule.milestones=[0.2,0.4]"]),
    ],
)  # fmt: skip
def test_what_differs_in_a_sweep(
    runs: list[str], titles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [from_arguments(*run.split()) for run in runs]
    monkeypatch.setenv(SWEEP_VARIABLE, sweep_variable("sweep-1", configs))
    assert [title(config) for config in configs] == titles
    assert of_sweep()[0] == "sweep-1"


def test_a_search_names_its_parameters_and_a_run_alone_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(SWEEP_VARIABLE, raising=False)
    config = from_arguments("optimizer.lr=0.05")
    assert title(config) == "cayley cnn6 digits seed 0"
    monkeypatch.setenv(SWEEP_VARIABLE, sweep_variable("search-1", [], ["optimizer.lr"]))
    assert title(config) == "cayley cnn6 digits seed 0 optimizer.lr=0.05"
