"""Mean test errors with 95% intervals, and the single seeds; a line at the mean of `standard`."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opt_runner.report.columns import finished
from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.lines import span
from opt_runner.report.figures.style import (
    QUIET,
    Style,
    drawing,
    new_figure,
    prepare,
    styles,
    words,
)
from opt_runner.report.statistics import Difference

SHOWS = "Test errors with their 95% intervals"


def draw(table: Comparison) -> Figure | None:
    errors = [row.values("test_error") for row in table.rows]
    if not any(errors):
        return None
    # The interval of a mean is that of its difference to zero.
    means = [Difference.paired(of_row, dict.fromkeys(of_row, 0.0)) for of_row in errors]
    counts = {mean.n for mean in means if mean}
    note = "test error, %; one seed each"
    if max(counts) > 1:
        note = (
            f"test error, %: mean over {span(counts)} seeds with its 95% interval (Student's t); "
            "faint: the seeds"
        )
    with drawing():
        figure = new_figure(table, note, 1.1 + 0.34 * len(means))
        axes = figure.subplots()
        prepare(axes)
        labels = [words(row.label) for row in table.rows]
        axes.set_yticks(range(len(labels)), labels, color="black")
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(*_limits([v for of_row in errors for v in of_row.values()], means))
        if baseline := table.baseline and table.baseline.mean("test_error"):
            axes.axvline(baseline.mean, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
        for place, (row, mean, style) in enumerate(
            zip(table.rows, means, styles(table), strict=True)
        ):
            if mean is None:
                axes.text(
                    0.01, place, words(finished(table, row), 80),
                    transform=axes.get_yaxis_transform(), color=QUIET, va="center",
                )  # fmt: skip
                continue
            _draw_row(axes, place, mean, sorted(row.values("test_error").values()), style)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
    return figure


def _draw_row(
    axes: Axes, place: int, mean: Difference, seeds: Sequence[float], style: Style
) -> None:
    if len(seeds) > 1:
        axes.plot(
            seeds, [place + 0.24] * len(seeds), linestyle="none", marker="o", markersize=4,
            color=style.colour, alpha=0.5, markeredgewidth=0,
        )  # fmt: skip
    if mean.low is not None and mean.high is not None:
        axes.plot(
            [mean.low, mean.high], [place, place], color=style.colour, linewidth=1.4,
            marker="|", markersize=7, markeredgewidth=1.4,
        )  # fmt: skip
    axes.plot(
        mean.mean, place, marker=style.marker, markersize=7, color=style.colour,
        markeredgecolor="white", markeredgewidth=0.6, linestyle="none",
    )  # fmt: skip


def _limits(seeds: Sequence[float], means: Sequence[Difference | None]) -> tuple[float, float]:
    """Limits with all seeds, and with the intervals unless they are far wider than the seeds.

    The interval of two seeds is 18 times as wide as they lie apart: shown whole it would flatten
    all else.
    """
    low, high = min(seeds), max(seeds)
    most = 1.5 * (high - low) or 0.1 * high or 1.0
    lows = [mean.low for mean in means if mean and mean.low is not None]
    highs = [mean.high for mean in means if mean and mean.high is not None]
    left = max(min([low, *lows]), low - most)
    right = min(max([high, *highs]), high + most)
    edge = 0.04 * (right - left) or 0.1 * most
    return max(left - edge, -edge / 2), right + edge  # an error is not below zero
