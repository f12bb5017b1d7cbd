"""A quantity of the metrics against steps: a line a row, the mean over seeds, with a band."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from opt_runner.records.stored import StoredRun
from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.panels import Panel
from opt_runner.report.figures.style import (
    QUIET,
    Style,
    make_logarithmic,
    prepare,
    styles,
    words,
)

_FEW = 5  # seconds, below which whole ones are no good ticks

Metrics = Sequence[dict[str, Any]]  # the rows of metrics.jsonl


@dataclass(frozen=True)
class Line:
    """The mean, lowest and highest over n seeds, by step.

    place: of the row in its table. finished: whether it is of finished runs; a row without any
    shows what there is.
    """

    label: str
    place: int
    style: Style
    finished: bool
    n: int
    steps: Sequence[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def lines(table: Comparison, read: Callable[[Metrics], dict[int, float]]) -> list[Line]:
    """A line for each row of which `read` finds values, by step, in the metrics of a run."""
    found = []
    for place, (row, style) in enumerate(zip(table.rows, styles(table), strict=True)):
        finished = [run for run in row.runs if run.status == "finished"]
        runs = finished or row.runs
        seeds = [values for run in runs if (values := read(_metrics(run)))]
        if not seeds:
            continue
        label = row.label
        if not finished:
            label += f" ({', '.join(sorted({run.status for run in runs}))})"
        steps = sorted(set().union(*seeds))
        at = [[values[step] for values in seeds if step in values] for step in steps]
        found.append(
            Line(
                label=words(label),
                place=place,
                style=style,
                finished=bool(finished),
                n=len(seeds),
                steps=steps,
                mean=[sum(values) / len(values) for values in at],
                low=[min(values) for values in at],
                high=[max(values) for values in at],
            )
        )
    return found


def draw_lines(axes: Axes, lines: Sequence[Line], ends: str = "") -> None:
    """ends: a format for the last value of a line, which then stands in the legend."""
    prepare(axes)
    for place, line in enumerate(lines):
        end = "  " + ends.format(line.mean[-1]) if ends else ""
        axes.plot(
            line.steps,
            line.mean,
            label=line.label + end,
            color=line.style.colour,
            linestyle=line.style.dashes,
            linewidth=line.style.width,
            marker=line.style.marker,
            markersize=4.5,
            markeredgewidth=0,
            # Few, and each line's at its own places, so that lines on each other can be told apart.
            markevery=(0.2 * place / len(lines), 0.2),
        )
        if line.n > 1:
            axes.fill_between(
                line.steps, line.low, line.high, color=line.style.colour, alpha=0.16, linewidth=0
            )
    axes.set_xlabel("step", color=QUIET)
    axes.set_xlim(*_steps_shown(lines))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def line_panel(name: str, lines: Sequence[Line], against: str = "step") -> Panel:
    """A panel of the lines of some rows, with room for all; its vertical axis is logarithmic where
    the values differ by a factor of 4: a first error of 90%, or a first loss, would flatten all
    else. A zero lies below such an axis."""
    values = [value for line in shown(lines) for value in (*line.low, *line.high) if value > 0]
    logarithmic = bool(values) and max(values) >= 4 * min(values)

    def draw(axes: Axes, places: Collection[int]) -> str:
        draw_lines(axes, [line for line in lines if line.place in places])
        axes.set_xlabel(against, color=QUIET)
        axes.set_xlim(*_steps_shown(lines))
        if lines and max(line.steps[-1] for line in lines) < _FEW:
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if logarithmic:
            make_logarithmic(axes, "y", values)
        return name + (", log scale" if logarithmic else "")

    return draw


def shown(lines: Sequence[Line]) -> Sequence[Line]:
    """Those for which the axes make room: what did not finish may have values of any size."""
    return [line for line in lines if line.finished] or lines


def _steps_shown(lines: Sequence[Line]) -> tuple[float, float]:
    last = max((line.steps[-1] for line in lines), default=0)
    return 0, 1.02 * (last or 1)


def over_seeds(lines: Sequence[Line]) -> str:
    """What the lines are, in words."""
    counts = {line.n for line in lines}
    if counts == {1}:
        return "one seed each"
    return f"mean over {span(counts)} seeds; band: lowest to highest"


def span(counts: Iterable[int]) -> str:
    """`3`, or `2 to 3`."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _metrics(run: StoredRun) -> Metrics:
    """The rows of a run; none where they are missing or damaged."""
    try:
        rows = run.record.read_metrics()
    except (OSError, ValueError):
        return []
    whole = all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows)
    return rows if whole else []
