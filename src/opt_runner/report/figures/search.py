"""The picture of a fair comparison's searches: validation errors against learning rates."""

from collections.abc import Mapping, Sequence
from statistics import median

from matplotlib.figure import Figure

from opt_runner.records.search import SearchRecord, Trial
from opt_runner.report.comparison import is_number
from opt_runner.report.figures.canvas import (
    QUIET,
    drawing,
    make_logarithmic,
    new_figure,
    shared_grid,
    spread,
    wrapped,
)
from opt_runner.report.figures.style import method_colours

TUNING = "Validation errors of the trials against the learning rates, a panel for each entrant"
_BEST = "#d55e00"
_ACROSS = 4
# On a linear axis, errors above this multiple of the median are out of range, because one failed
# trial would flatten all others.
_FAR = 1.5
# The keys of learning rates, with their markers.
_RATES = {"optimizer.rotation_lr": "o", "method.rotation_lr": "o", "optimizer.lr": "+"}


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
    across = min(_ACROSS, len(shown))
    with drawing():
        axis = searches[0].measure.axis("validation")
        note = (
            f"{axis}, of each trial against its learning rates; o: that of R; +: that of all else; "
            "ringed: the best"
        )
        figure = new_figure(searches[0].name, note, 0.3 - 1.9 * (-len(shown) // across))
        grid = shared_grid(figure, len(shown), across)
        rates: list[float] = []
        for axes, (search, ranked) in zip(grid, shown, strict=True):
            parameters, of_trials = [trial.parameters for trial in ranked], _errors(ranked)
            keys = [key for key in _RATES if all(is_number(one.get(key)) for one in parameters)]
            for key in keys:
                marker, values = _RATES[key], [one[key] for one in parameters]
                axes.plot(
                    values, of_trials, marker, markersize=5, markeredgewidth=1.3,
                    color=colours[search.label] if marker == "o" else QUIET, alpha=0.8,
                )  # fmt: skip
                rates += [rate for rate in values if rate > 0]
            if keys:
                axes.plot(
                    parameters[0][keys[0]], of_trials[0], "o", markersize=11, clip_on=False,
                    markerfacecolor="none", markeredgecolor=_BEST, markeredgewidth=1.4,
                )  # fmt: skip
            beyond = [error for error in of_trials if error > highest]
            notes = [f"{lost} diverged"] if (lost := search.count("diverged")) else []
            notes += [f"{len(beyond)} above, up to {max(beyond):.3g}"] if beyond else []
            about = f" ({', '.join(notes)})" if notes else ""
            axes.set_title(wrapped(search.label + about, 30))
        if rates:
            make_logarithmic(grid[0], "x", rates, narrow=across > 2)
        if logarithmic:
            make_logarithmic(grid[0], "y", errors)
        elif max(errors) > highest:
            grid[0].set_ylim(min(errors) - 0.05 * highest, highest)
    return figure


def _errors(trials: Sequence[Trial]) -> list[float]:
    return [trial.value or 0.0 for trial in trials]
