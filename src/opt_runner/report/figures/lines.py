"""A quantity of the metrics against steps: a line a row, the mean over seeds, with a band."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from opt_runner.records.stored import StoredRun
from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.style import QUIET, Style, prepare, styles, words

Metrics = Sequence[dict[str, Any]]  # the rows of metrics.jsonl


@dataclass(frozen=True)
class Line:
    """The mean, lowest and highest over n seeds, by step.

    family: of the row's method. finished: whether it is of finished runs; a row without any shows
    what there is.
    """

    label: str
    family: str
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
    for row, style in zip(table.rows, styles(table), strict=True):
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
                family=row.family,
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
    last = max((line.steps[-1] for line in lines), default=0)
    axes.set_xlim(0, 1.02 * max(1, last))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def shown(lines: Sequence[Line]) -> Sequence[Line]:
    """Those for which the axes make room: what did not finish may have values of any size."""
    return [line for line in lines if line.finished] or lines


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
