"""Pictures of searches: validation errors of trials in order and against each parameter."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from opt_runner.records.search import SearchRecord, Trial
from opt_runner.report.comparison import is_number
from opt_runner.report.figures.canvas import (
    QUIET,
    drawing,
    legend,
    make_logarithmic,
    new_figure,
    prepare,
    shared_grid,
    spread,
    wrapped,
)
from opt_runner.report.figures.style import method_colours

SEARCH = "Validation errors of the trials, in their order and against each parameter"
TUNING = "Validation errors of the trials against the learning rates, a panel for each entrant"
_COLOUR, _BEST = "#0072b2", "#d55e00"
_ACROSS = 3  # panels of parameters side by side
_ENTRANTS_ACROSS = 4
# On a linear axis, errors above this multiple of the median are out of range, because one failed
# trial would flatten all others.
_FAR = 1.5
_RATES = {  # marker: (its name, the keys that it shows)
    "o": ("learning rate of R", ("optimizer.rotation_lr", "method.rotation_lr")),
    "+": ("learning rate of all else", ("optimizer.lr",)),
}


def draw_search(search: SearchRecord) -> Figure | None:
    """Draw a search; None if no trial has finished."""
    ranked = search.ranked()
    if not ranked:
        return None
    across = max(1, min(_ACROSS, len(search.space)))
    lines = 1 - (-len(search.space) // across)
    with drawing():
        axis = search.measure.axis("validation")
        note = f"{axis}, of {len(ranked)} trials that finished; ringed: the best"
        figure = new_figure(search.name, note, 0.3 + 2.2 * lines)
        grid = figure.add_gridspec(lines, across)
        history = prepare(figure.add_subplot(grid[0, :]))
        _draw_history(history, search, sorted(ranked, key=lambda trial: trial.number))
        for place, key in enumerate(search.space):
            cell = grid[1 + place // across, place % across]
            axes = prepare(figure.add_subplot(cell, sharey=history))
            axes.set_xlabel(wrapped(key), color=QUIET)
            values = _draw_trials(axes, ranked, key, "o", _COLOUR)
            if key in search.log and min(values) > 0:
                make_logarithmic(axes, "x", values, narrow=True)
            _ring(axes, values[0], ranked[0])
        if spread(errors := _errors(ranked)):
            make_logarithmic(history, "y", errors)
        legend(figure, [history])
    return figure


def _draw_history(axes: Axes, search: SearchRecord, trials: Sequence[Trial]) -> None:
    numbers, errors = [trial.number for trial in trials], _errors(trials)
    axes.plot(numbers, errors, "o", color=_COLOUR, markersize=4, alpha=0.7, label="trial")
    lowest = [*accumulate(errors, min)]
    axes.step(numbers, lowest, where="post", color=_BEST, linewidth=1.4, label="lowest so far")
    for status, marker in (("pruned", "|"), ("diverged", "x"), ("failed", "1")):
        if others := [trial.number for trial in search.trials if trial.status == status]:
            axes.plot(
                others, [0.97] * len(others), marker, color=QUIET, markersize=6,
                transform=axes.get_xaxis_transform(), label=status,
            )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial", color=QUIET)


def draw_tuning(
    searches: Sequence[SearchRecord], stated: Mapping[str, str | None]
) -> Figure | None:
    """Draw the searches of a fair comparison; None if no trial has finished.

    stated: the colours of methods, by name, if they have their own.
    """
    shown = [(search, ranked) for search in searches if (ranked := search.ranked())]
    if not shown:
        return None
    errors = [error for _, ranked in shown for error in _errors(ranked)]
    logarithmic, far = spread(errors), _FAR * median(errors)
    highest = far if far > 0 and not logarithmic else max(errors)
    # A label is a method's name, or has a network's beside it.
    colours = method_colours(
        {s.label: next((stated[w] for w in s.label.split() if w in stated), None) for s, _ in shown}
    )
    across = min(_ENTRANTS_ACROSS, len(shown))
    with drawing():
        axis = searches[0].measure.axis("validation")
        note = f"{axis}, of each trial against its learning rates; ringed: the best"
        figure = new_figure(searches[0].name, note, 0.3 - 1.9 * (-len(shown) // across))
        grid = shared_grid(figure, len(shown), across)
        rates: list[float] = []
        for axes, (search, ranked) in zip(grid, shown, strict=True):
            found = {
                marker: _draw_trials(
                    axes, ranked, key, marker, colours[search.label] if marker == "o" else QUIET,
                    label,
                )
                for marker, (label, keys) in _RATES.items()
                for key in keys
                if all(is_number(trial.parameters.get(key)) for trial in ranked)
            }  # fmt: skip
            if found:
                _ring(axes, next(iter(found.values()))[0], ranked[0])
            rates += [rate for values in found.values() for rate in values if rate > 0]
            beyond = [error for error in _errors(ranked) if error > highest]
            notes = [f"{lost} diverged"] if (lost := search.count("diverged")) else []
            notes += [f"{len(beyond)} above, up to {max(beyond):.3g}"] if beyond else []
            about = f" ({', '.join(notes)})" if notes else ""
            axes.set_title(wrapped(search.label + about, 30), loc="left")
        if rates:
            make_logarithmic(grid[0], "x", rates, narrow=across > 2)
            legend(figure, grid)
        if logarithmic:
            make_logarithmic(grid[0], "y", errors)
        elif max(errors) > highest:
            grid[0].set_ylim(min(errors) - 0.05 * highest, highest)
    return figure


def _draw_trials(
    axes: Axes, trials: Sequence[Trial], key: str, marker: str, colour: str, label: str = ""
) -> Sequence[float]:
    """Draw errors against a parameter, and return its places; each word has a place of its own."""
    values: list[Any] = [trial.parameters.get(key) for trial in trials]
    if not all(map(is_number, values)):
        words = [str(value) for value in values]
        choices = sorted(set(words))
        axes.set_xticks(range(len(choices)), [wrapped(choice, 12) for choice in choices])
        axes.set_xlim(-0.6, len(choices) - 0.4)
        values = [choices.index(word) for word in words]
    axes.plot(values, _errors(trials), marker, color=colour, markersize=5, markeredgewidth=1.3,
              alpha=0.8, label=label)  # fmt: skip
    return values


def _ring(axes: Axes, x: float, trial: Trial) -> None:
    axes.plot(
        x, trial.value or 0.0, "o", markersize=11, markerfacecolor="none", markeredgecolor=_BEST,
        markeredgewidth=1.4, clip_on=False,
    )  # fmt: skip


def _errors(trials: Sequence[Trial]) -> list[float]:
    return [trial.value or 0.0 for trial in trials]
