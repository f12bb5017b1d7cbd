"""The searches of a fair comparison: validation error against each learning rate, by entrant."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

from matplotlib.figure import Figure

from opt_runner.records.search import SearchRecord
from opt_runner.report.figures.style import (
    QUIET,
    WIDTH,
    drawing,
    legend,
    make_logarithmic,
    method_colours,
    prepare,
    words,
)

SHOWS = "Validation errors of the trials against the learning rates, a panel an entrant"
_ACROSS = 4
# On an axis that is not logarithmic errors of so many times the median are arrows at its top, told
# in the panel's title: one that learned nothing would flatten all others.
_FAR = 1.5
_REST, _ROTATED = "optimizer.lr", ("optimizer.rotation_lr", "method.rotation_lr")


def draw(searches: Sequence[SearchRecord], stated: Mapping[str, str | None]) -> Figure | None:
    """None where no trial has finished. stated: the colours that methods state, by name."""
    shown = [search for search in searches if search.ranked()]
    if not shown:
        return None
    errors = [trial.value or 0.0 for search in shown for trial in search.ranked()]
    logarithmic = min(errors) > 0 and max(errors) > 4 * min(errors)
    far = _FAR * median(errors)
    highest = far if far and not logarithmic else max(errors)
    rates = [
        trial.parameters[key]
        for search in shown
        for trial in search.ranked()
        for key in (_REST, *_ROTATED)
        if key in trial.parameters
    ]
    colours = method_colours({search.label: _stated(search.label, stated) for search in shown})
    across = min(_ACROSS, len(shown))
    down = math.ceil(len(shown) / across)
    with drawing():
        figure = Figure((WIDTH, 0.8 + 1.9 * down), layout="constrained")
        figure.suptitle(
            "validation error, %, of each trial against its learning rates; ringed: the best trial",
            x=0.01, ha="left",
        )  # fmt: skip
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        panels = list(grid.flat)
        for axes, search in zip(panels, shown, strict=False):
            prepare(axes)
            best = search.ranked()[0]
            for keys, marker, name in (
                (_ROTATED, "o", "learning rate of R"),
                ((_REST,), "+", "learning rate of all else"),
            ):
                points = [
                    (trial.parameters[key], trial.value or 0.0)
                    for trial in search.ranked()
                    for key in keys
                    if key in trial.parameters
                ]
                colour = colours[search.label] if marker == "o" else QUIET
                axes.plot(
                    [rate for rate, _ in points], [error for _, error in points], marker,
                    color=colour, markersize=5, markeredgewidth=1.3, label=name,
                )  # fmt: skip
                if beyond := [rate for rate, error in points if error > highest]:
                    axes.plot(
                        beyond, [0.97] * len(beyond), "^", color=colour, markersize=5,
                        fillstyle="full" if marker == "o" else "none",
                        transform=axes.get_xaxis_transform(),
                    )  # fmt: skip
            ringed = next((k for k in (*_ROTATED, _REST) if k in best.parameters), None)
            if ringed is not None:
                axes.plot(
                    best.parameters[ringed], best.value, "o", markersize=11,
                    markerfacecolor="none", markeredgecolor="#d55e00", markeredgewidth=1.4,
                    clip_on=False,
                )  # fmt: skip
            lost = search.count("diverged")
            notes = [*([f"{lost} diverged"] if lost else []), *_beyond(search, highest)]
            axes.set_title(
                words(search.label, 30) + (f" ({', '.join(notes)})" if notes else ""), loc="left"
            )
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        for axes in panels[max(0, len(shown) - across) : len(shown)]:
            axes.tick_params(axis="x", labelbottom=True)  # the last of its column
        if rates:
            make_logarithmic(panels[0], "x", rates, narrow=across > 2)
        if logarithmic:
            make_logarithmic(panels[0], "y", errors)
        elif max(errors) > highest:
            panels[0].set_ylim(min(errors) - 0.05 * highest, highest)
        legend(figure, panels[: len(shown)])
    return figure


def _beyond(search: SearchRecord, highest: float) -> list[str]:
    """The errors above the axis, in words."""
    errors = sorted(error for t in search.ranked() if (error := t.value or 0.0) > highest)
    if not errors:
        return []
    if len(errors) < 3:
        return ["↑ " + " and ".join(f"{error:.3g}" for error in errors)]
    return [f"↑ {len(errors)} of {errors[0]:.3g} to {errors[-1]:.3g}"]


def _stated(label: str, stated: Mapping[str, str | None]) -> str | None:
    """The colour of the method that an entrant's label names."""
    return next((stated[word] for word in label.split() if word in stated), None)
