"""Searches: the validation errors of trials in their order and against what was searched."""

from collections.abc import Mapping, Sequence
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
TUNING = "Validation errors of the trials against the learning rates, a panel an entrant"
_COLOUR, _BEST = "#0072b2", "#d55e00"
_ACROSS = 3  # panels of parameters side by side
_ENTRANTS_ACROSS = 4
# On an axis that is not logarithmic errors of so many times the median are arrows at its top: one
# that learned nothing would flatten all others.
_FAR = 1.5
_RATES = {  # marker: (its name, the keys that it shows)
    "o": ("learning rate of R", ("optimizer.rotation_lr", "method.rotation_lr")),
    "+": ("learning rate of all else", ("optimizer.lr",)),
}


def draw_search(search: SearchRecord) -> Figure | None:
    """Draw a search; None if no trial has finished."""
    trials = sorted(search.ranked(), key=lambda trial: trial.number)
    if not trials:
        return None
    errors, best = [trial.value or 0.0 for trial in trials], trials.index(search.ranked()[0])
    across = max(1, min(_ACROSS, len(search.space)))
    lines = 1 - (-len(search.space) // across)
    with drawing():
        note = f"validation error, %, of {len(trials)} trials that finished"
        figure = new_figure(search.name, note, 0.3 + 2.2 * lines)
        grid = figure.add_gridspec(lines, across)
        history = prepare(figure.add_subplot(grid[0, :]))
        numbers = [trial.number for trial in trials]
        lowest = [min(errors[: place + 1]) for place in range(len(errors))]
        history.plot(numbers, errors, "o", color=_COLOUR, markersize=4, alpha=0.7, label="trial")
        history.step(numbers, lowest, where="post", color=_BEST, linewidth=1.4,
                     label="lowest so far")  # fmt: skip
        for status, marker in (("pruned", "|"), ("diverged", "x"), ("failed", "1")):
            if others := [trial.number for trial in search.trials if trial.status == status]:
                _at_the_top(history, others, marker, color=QUIET, label=status)
        history.xaxis.set_major_locator(MaxNLocator(integer=True))
        history.set_xlabel("trial", color=QUIET)
        for place, key in enumerate(search.space):
            cell = grid[1 + place // across, place % across]
            axes = prepare(figure.add_subplot(cell, sharey=history))
            axes.set_xlabel(wrapped(key), color=QUIET)
            values = _values(axes, [trial.parameters.get(key) for trial in trials])
            if key in search.log and min(values) > 0:
                make_logarithmic(axes, "x", values, narrow=True)
            axes.plot(values, errors, "o", color=_COLOUR, markersize=4, alpha=0.7)
            axes.plot(values[best], errors[best], "o", color=_BEST, markersize=6)
        if spread(errors):
            make_logarithmic(history, "y", errors)
        legend(figure, [history])
    return figure


def draw_tuning(
    searches: Sequence[SearchRecord], stated: Mapping[str, str | None]
) -> Figure | None:
    """Draw the searches of a fair comparison; None if no trial has finished.

    stated: the colours that methods state, by name.
    """
    shown = [(search, ranked) for search in searches if (ranked := search.ranked())]
    if not shown:
        return None
    errors = [trial.value or 0.0 for _, ranked in shown for trial in ranked]
    logarithmic = spread(errors)
    far = _FAR * median(errors)
    highest = far if far > 0 and not logarithmic else max(errors)
    rates = [rate for _, ranked in shown for trial in ranked for rate in _rates(trial).values()]
    # A label is a method's name, or has a network's beside it.
    colours = method_colours(
        {s.label: next((stated[w] for w in s.label.split() if w in stated), None) for s, _ in shown}
    )
    across = min(_ENTRANTS_ACROSS, len(shown))
    with drawing():
        note = "validation error, %, of each trial against its learning rates; ringed: the best"
        figure = new_figure(searches[0].name, note, 0.3 - 1.9 * (-len(shown) // across))
        grid = shared_grid(figure, len(shown), across)
        for axes, (search, ranked) in zip(grid, shown, strict=True):
            _draw_rates(axes, ranked, colours[search.label], highest)
            beyond = [t.value for t in ranked if t.value and t.value > highest]
            notes = [f"{lost} diverged"] if (lost := search.count("diverged")) else []
            if beyond:
                notes.append(f"↑ {len(beyond)}, up to {max(beyond):.3g}")
            told = f" ({', '.join(notes)})" if notes else ""
            axes.set_title(wrapped(search.label + told, 30), loc="left")
        if spread_rates := [rate for rate in rates if rate > 0]:
            make_logarithmic(grid[0], "x", spread_rates, narrow=across > 2)
        if logarithmic:
            make_logarithmic(grid[0], "y", errors)
        elif max(errors) > highest:
            grid[0].set_ylim(min(errors) - 0.05 * highest, highest)
        legend(figure, grid)
    return figure


def _draw_rates(axes: Axes, ranked: Sequence[Trial], colour: str, highest: float) -> None:
    """Draw the trials of an entrant, the best first."""
    for marker, (name, _) in _RATES.items():
        points = [(r[marker], t.value or 0.0) for t in ranked if marker in (r := _rates(t))]
        look: dict[str, Any] = {"color": colour if marker == "o" else QUIET, "markersize": 5}
        axes.plot(
            [rate for rate, _ in points], [error for _, error in points], marker,
            markeredgewidth=1.3, label=name, **look,
        )  # fmt: skip
        if beyond := [rate for rate, error in points if error > highest]:
            filled = "full" if marker == "o" else "none"
            _at_the_top(axes, beyond, "^", fillstyle=filled, **look)
    if rates := _rates(ranked[0]):
        axes.plot(
            next(iter(rates.values())), ranked[0].value or 0.0, "o", markersize=11, clip_on=False,
            markerfacecolor="none", markeredgecolor=_BEST, markeredgewidth=1.4,
        )  # fmt: skip


def _rates(trial: Trial) -> dict[str, float]:
    """Return the learning rates of a trial by marker."""
    return {
        marker: trial.parameters[key]
        for marker, (_, keys) in _RATES.items()
        for key in keys
        if is_number(trial.parameters.get(key))
    }


def _at_the_top(axes: Axes, x: Sequence[float], marker: str, **look: Any) -> None:
    axes.plot(
        x,
        [0.97] * len(x),
        marker,
        transform=axes.get_xaxis_transform(),
        **{"markersize": 6, **look},
    )


def _values(axes: Axes, values: Sequence[Any]) -> Sequence[float]:
    """Return the places of values on the axis: numbers, or for words a place each."""
    if all(map(is_number, values)):
        return values
    words = [str(value) for value in values]
    choices = sorted(set(words))
    axes.set_xticks(range(len(choices)), [wrapped(choice, 12) for choice in choices])
    axes.set_xlim(-0.6, len(choices) - 0.4)
    return [choices.index(word) for word in words]
