"""A search: its trials in their order, and the validation error against each parameter."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from opt_runner.records.search import SearchRecord, Trial
from opt_runner.report.figures.style import (
    QUIET,
    WIDTH,
    drawing,
    legend,
    make_logarithmic,
    prepare,
    words,
)

SHOWS = "Validation errors of the trials, in their order and against each parameter"
_COLOUR, _BEST = "#0072b2", "#d55e00"
_ACROSS = 3  # panels side by side


def draw(search: SearchRecord) -> Figure | None:
    """None where no trial has finished."""
    trials = sorted(search.ranked(), key=lambda trial: trial.number)
    if not trials:
        return None
    best, parameters = search.ranked()[0], list(search.space)
    across = min(_ACROSS, len(parameters))
    lines = math.ceil(len(parameters) / across)
    with drawing():
        figure = Figure((WIDTH, 2.7 + 2.2 * lines), layout="constrained")
        title = f"{search.name}: validation error, %, of {len(trials)} trials that finished"
        figure.suptitle(words(title, 100), x=0.01, ha="left")
        grid = figure.add_gridspec(1 + lines, across)
        history = figure.add_subplot(grid[0, :])
        _history(history, search, trials)
        for place, key in enumerate(parameters):
            axes = figure.add_subplot(grid[1 + place // across, place % across], sharey=history)
            _parameter(axes, key, key in search.log, trials, best)
        errors = [_value(trial) for trial in trials]
        if min(errors) > 0 and max(errors) > 4 * min(errors):
            make_logarithmic(history, "y", errors)
        legend(figure, [history])
    return figure


def _history(axes: Axes, search: SearchRecord, trials: Sequence[Trial]) -> None:
    prepare(axes)
    numbers, values = [trial.number for trial in trials], [_value(trial) for trial in trials]
    axes.plot(numbers, values, "o", color=_COLOUR, markersize=4, alpha=0.7, label="trial")
    lowest = [min(values[: place + 1]) for place in range(len(values))]
    axes.step(numbers, lowest, where="post", color=_BEST, linewidth=1.4, label="lowest so far")
    for status, marker in (("pruned", "|"), ("diverged", "x"), ("failed", "1")):
        others = [trial.number for trial in search.trials if trial.status == status]
        if others:
            axes.plot(
                others, [0.97] * len(others), marker, color=QUIET, markersize=6,
                transform=axes.get_xaxis_transform(), label=status,
            )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial", color=QUIET)


def _parameter(
    axes: Axes, key: str, logarithmic: bool, trials: Sequence[Trial], best: Trial
) -> None:
    prepare(axes)
    values = [trial.parameters[key] for trial in trials]
    places = _places(axes, values)
    if logarithmic:
        make_logarithmic(axes, "x", places, narrow=True)
    errors = [_value(trial) for trial in trials]
    axes.plot(places, errors, "o", color=_COLOUR, markersize=4, alpha=0.7)
    at = places[next(i for i, trial in enumerate(trials) if trial is best)]
    axes.plot(at, _value(best), "o", color=_BEST, markersize=6)
    axes.set_xlabel(words(key), color=QUIET)


def _places(axes: Axes, values: Sequence[Any]) -> Sequence[float]:
    """Numbers where they are; of words each has a place of its own."""
    if not isinstance(values[0], str):
        return values
    choices = sorted(set(values))
    axes.set_xticks(range(len(choices)), [words(choice, 12) for choice in choices])
    axes.set_xlim(-0.6, len(choices) - 0.4)
    return [choices.index(value) for value in values]


def _value(trial: Trial) -> float:
    assert trial.value is not None  # it has finished
    return trial.value
