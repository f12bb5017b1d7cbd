"""A table's figures: training curves, energy, test errors with their intervals, neurons' angles.

Each function returns None where the records hold nothing to draw. A method looks the same in every
figure: told apart by colour (with any colour vision), by dashes and by marker.
"""

import math
import textwrap
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opt_runner.files import write_whole
from opt_runner.records.result import ANGLE_BINS
from opt_runner.records.stored import StoredRun
from opt_runner.report.comparison import Comparison, Row, count
from opt_runner.report.statistics import Difference

if TYPE_CHECKING:  # slow to import: here only where something is drawn
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_QUIET = "#666666"
_WIDTH = 7.5  # inches: a page's text
# In percent. Less is the rounding of float32, which an axis of its own would make look like change.
_LEAST_ENERGY = 0.01


@dataclass(frozen=True)
class _Style:
    colour: str
    dashes: Any  # as matplotlib takes them
    marker: str
    width: float = 1.5


_SOLID, _DASHED, _DOTTED, _DASHDOT = "solid", (0, (5, 2)), (0, (1, 1.3)), (0, (5, 1.5, 1, 1.5))
_DASHES = [_SOLID, _DASHED, _DOTTED, _DASHDOT]
# Okabe and Ito's palette without its yellow, which is lost on white; `standard` is the ground that
# the others stand before.
COLOURS = {
    "standard": "#777777",
    "gs": "#0072B2",
    "hr": "#009E73",
    "ls": "#D55E00",
    "cayley": "#CC79A7",
    "ogd": "#E69F00",
    "or": "#000000",
    "sopt": "#56B4E9",
}
_STYLES = {
    "standard": _Style(COLOURS["standard"], _SOLID, "o", 2.6),
    "gs": _Style(COLOURS["gs"], _SOLID, "s"),
    "hr": _Style(COLOURS["hr"], _DASHED, "^"),
    "ls": _Style(COLOURS["ls"], _DOTTED, "v"),
    "cayley": _Style(COLOURS["cayley"], _DASHDOT, "D"),
    "ogd": _Style(COLOURS["ogd"], _SOLID, "P"),
    "or": _Style(COLOURS["or"], _DASHED, "X"),
    "sopt": _Style(COLOURS["sopt"], _DASHDOT, ">"),
}
# For methods of a user's own, from Tol's muted palette.
_OWN_COLOURS = ["#882255", "#332288", "#999933", "#44AA99"]


def _styles(table: Comparison) -> list[_Style]:
    """One a row. Several rows in one colour, as forms of a method, differ in their dashes."""
    styles = []
    seen: Counter[str] = Counter()
    for row in table.rows:
        # Not hash(), which is another one in every process.
        own = _OWN_COLOURS[zlib.crc32(row.method.encode()) % len(_OWN_COLOURS)]
        style = _STYLES.get(row.method, _Style(own, _SOLID, "h"))
        turned = (_DASHES.index(style.dashes) + seen[style.colour]) % len(_DASHES)
        styles.append(_Style(style.colour, _DASHES[turned], style.marker, style.width))
        seen[style.colour] += 1
    return styles


@dataclass(frozen=True)
class _Line:
    """A quantity of a row against steps: its mean, lowest and highest over n seeds."""

    label: str
    style: _Style
    finished: bool
    n: int
    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def curves(table: Comparison) -> "Figure | None":
    """Test error, or the validation error where there is one, and train loss against steps."""
    validation = _lines(table, partial(_column, "validation_error"))
    errors = validation or _lines(table, partial(_column, "test_error"))
    name_of_errors = f"{'validation' if validation else 'test'} error, %"
    losses = _lines(table, partial(_column, "train_loss"))
    if not errors and not losses:
        return None
    with _rc():
        figure = _figure(table, _over_seeds(errors + losses), 3.1)
        left, right = figure.subplots(1, 2)
        for axes, lines, name in ((left, errors, name_of_errors), (right, losses, "train loss")):
            _draw(axes, lines)
            logarithmic = _logarithmic(axes, lines)
            axes.set_title(name + (", log scale" if logarithmic else ""), loc="left")
        _legend(figure, [left, right])
    return figure


def energy(table: Comparison) -> "Figure | None":
    """Hyperspherical energy, summed over layers, as its change from the start in percent."""
    lines = _lines(table, _energy_change)
    if not lines:
        return None
    with _rc():
        figure = _figure(table, _over_seeds(lines), 2.9)
        axes = figure.subplots()
        _draw(axes, lines, ends="{:+z.3f}%")
        shown = [line for line in lines if line.finished] or lines
        low = min(-_LEAST_ENERGY, *(min(line.low) for line in shown))
        high = max(_LEAST_ENERGY, *(max(line.high) for line in shown))
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:+.4g}" if value else "0")
        axes.set_title("change of the hyperspherical energy, %", loc="left")
        _legend(figure, [axes])
    return figure


def dots(table: Comparison) -> "Figure | None":
    """Mean test errors with 95% intervals, and the single seeds; a line where `standard` is."""
    values = [row.values("test_error") for row in table.rows]
    if not any(values):
        return None
    # The interval of a mean is that of its difference to zero.
    means = [Difference.paired(v, dict.fromkeys(v, 0.0)) for v in values]
    counts = {mean.n for mean in means if mean}
    note = "test error, %; one seed each"
    if max(counts) > 1:
        note = (
            f"test error, %: mean over {_range(counts)} seeds with its 95% interval (Student's t); "
            "faint: the seeds"
        )
    with _rc():
        figure = _figure(table, note, 1.1 + 0.34 * len(means))
        axes = figure.subplots()
        _ground(axes)
        labels = [_words(row.label) for row in table.rows]
        axes.set_yticks(range(len(labels)), labels, color="black")
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(*_around([v for of_row in values for v in of_row.values()], means))
        baseline = table.baseline.mean("test_error") if table.baseline else None
        if baseline:
            axes.axvline(baseline.mean, color=_QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
        for place, (row, mean, style) in enumerate(
            zip(table.rows, means, _styles(table), strict=True)
        ):
            if mean is None:
                axes.text(
                    0.01, place, _words(count(table, row), 80),
                    transform=axes.get_yaxis_transform(), color=_QUIET, va="center",
                )  # fmt: skip
                continue
            _dot(axes, place, mean, sorted(row.values("test_error").values()), style)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
    return figure


def angles(table: Comparison) -> "Figure | None":
    """Angles between the neurons of a layer before and after training; a panel a method."""
    from matplotlib.ticker import MultipleLocator

    rows = [(row, kept) for row in table.rows if (kept := _angles(row))]
    if not rows:
        return None
    edges = [180 / ANGLE_BINS * k for k in range(ANGLE_BINS + 1)]
    used = [k for _, kept in rows for of in kept for k, share in enumerate(of) if share > 0]
    if not used:
        return None
    note = (
        "angles between a layer's neurons, % of pairs; light: before; line: after; "
        "changed: of the histogram"
    )
    columns = min(4, len(rows))
    lines = math.ceil(len(rows) / columns)
    with _rc():
        figure = _figure(table, note, 0.9 + 1.55 * lines)
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(rows) :]:
            axes.remove()
        for place, (axes, (row, (before, after))) in enumerate(zip(grid.flat, rows, strict=False)):
            _ground(axes)
            axes.stairs(before, edges, fill=True, color="#A9CCE8")
            axes.stairs(after, edges, color="#1A1A1A", linewidth=1.1)
            axes.set_title(_words(row.label, 20), loc="left")
            moved = sum(abs(a - b) for a, b in zip(before, after, strict=True)) / 2
            axes.text(
                0.03, 0.96, f"changed\n{moved:.2f}%",
                transform=axes.transAxes, color=_QUIET, va="top", fontsize=8,
            )  # fmt: skip
            if place + columns >= len(rows):  # nothing stands below it
                axes.tick_params(labelbottom=True)
        left, right = edges[max(0, min(used) - 1)], edges[min(ANGLE_BINS, max(used) + 2)]
        grid[0, 0].set_xlim(left, right)
        grid[0, 0].xaxis.set_major_locator(MultipleLocator(30 if right - left > 60 else 10))
        grid[0, 0].xaxis.set_major_formatter(lambda value, _: f"{value:g}°")
        grid[0, 0].set_ylim(bottom=0)
    return figure


# By name, with what they show, in the order of a page.
PICTURES: dict[str, tuple[Callable[[Comparison], "Figure | None"], str]] = {
    "curves": (curves, "Test or validation error and train loss against steps"),
    "dots": (dots, "Test errors with their intervals"),
    "energy": (energy, "Change of the hyperspherical energy against steps"),
    "angles": (angles, "Angles between neurons before and after training"),
}


def drawn(table: Comparison) -> "dict[str, Figure]":
    """The pictures of a table by name, without those for which its records hold nothing."""
    figures = {name: draw(table) for name, (draw, _) in PICTURES.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}


def save(figure: "Figure", path: Path) -> list[Path]:
    """Write `path`.png and `path`.svg, the same bytes for the same figure. Raises CannotWrite."""
    paths = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "svg")]
    for file in paths:
        write_whole(file, partial(write, figure, kind=file.suffix[1:]))
    return paths


def write(figure: "Figure", file: Any, kind: str) -> None:
    """Write the figure to a binary file as `png` or `svg`."""
    with _rc():
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(file, format=kind, dpi=150, metadata=metadata)


@contextmanager
def _rc() -> Iterator[None]:
    """The same figures whatever a user's matplotlibrc says; ticks are made only when written."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.size": 9,
                "axes.titlesize": 9,
                "figure.titlesize": 9,
                "text.parse_math": False,  # a `$` in a label is a dollar
                "svg.fonttype": "none",  # words stay words: they can be searched
                "svg.hashsalt": "opt-runner",
            }
        )
        yield


def _figure(table: Comparison, note: str, height: float) -> "Figure":
    from matplotlib.figure import Figure

    title = f"{_words(table.title, 100)}\n{_words(note, 100)}"
    figure = Figure((_WIDTH, height + 0.15 * title.count("\n")), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _words(text: str, width: int = 26) -> str:
    """On lines of `width`; without what cannot be printed, which an SVG must not hold."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return textwrap.fill(printable, width, break_on_hyphens=False) or "-"


def _ground(axes: "Axes") -> None:
    axes.grid(color="#e2e2e2", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(length=0, colors=_QUIET, labelsize=9)


def _draw(axes: "Axes", lines: Sequence[_Line], ends: str = "") -> None:
    """ends: a format for a line's last value, which then stands in the legend."""
    from matplotlib.ticker import MaxNLocator

    _ground(axes)
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
            # Few, each method's at its own places: lines that lie on each other show.
            markevery=(0.2 * place / len(lines), 0.2),
        )
        if line.n > 1:
            axes.fill_between(
                line.steps, line.low, line.high, color=line.style.colour, alpha=0.16, linewidth=0
            )
    axes.set_xlabel("step", color=_QUIET)
    last = max((line.steps[-1] for line in lines), default=0)
    axes.set_xlim(0, 1.02 * max(1, last))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _logarithmic(axes: "Axes", lines: Sequence[_Line]) -> bool:
    """Make the vertical axis logarithmic where the values, all at least 0, span much.

    A first error of 90%, or a first loss, would flatten all else. A zero falls out at the bottom.
    Cells that did not finish do not count: their losses may be of any size.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    shown = [line for line in lines if line.finished] or lines
    positive = [value for line in shown for value in (*line.low, *line.high) if value > 0]
    if not positive or max(positive) < 4 * min(positive):
        return False
    low, high = min(positive) / 1.2, max(positive) * 1.2
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    decades = math.log10(high / low)
    ticks = (1, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 3.3 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return True


def _legend(figure: "Figure", panels: Sequence["Axes"]) -> None:
    """Below the panels, where it hides nothing; one entry a label. The figure grows by it."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    longest = max(len(line) for label in entries for line in label.split("\n"))
    lines = math.ceil(len(entries) / max(1, min(4, 100 // (longest + 9))))
    most = max(1 + label.count("\n") for label in entries)  # lines of a label
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.19 * most * lines)
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower left", frameon=False,
        handlelength=3.2, ncols=math.ceil(len(entries) / lines),
    )  # fmt: skip


def _over_seeds(lines: Sequence[_Line]) -> str:
    counts = {line.n for line in lines}
    if counts == {1}:
        return "one seed each"
    return f"mean over {_range(counts)} seeds; band: lowest to highest"


def _range(counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _dot(axes: "Axes", place: int, mean: Difference, seeds: list[float], style: _Style) -> None:
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


def _around(seeds: list[float], means: Sequence[Difference | None]) -> tuple[float, float]:
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


def _lines(
    table: Comparison, read: Callable[[list[dict[str, Any]]], dict[int, float]]
) -> list[_Line]:
    """A line a row of the table: its finished cells, or what there is where none has finished."""
    lines = []
    for row, style in zip(table.rows, _styles(table), strict=True):
        finished = [cell for cell in row.cells if cell.status == "finished"]
        cells = finished or row.cells
        seeds = [values for cell in cells if (values := read(_metrics(cell)))]
        if not seeds:
            continue
        label = row.label
        if not finished:
            label += f" ({', '.join(sorted({cell.status for cell in cells}))})"
        steps = sorted(set().union(*seeds))
        at = [[values[step] for values in seeds if step in values] for step in steps]
        lines.append(
            _Line(
                label=_words(label),
                style=style,
                finished=bool(finished),
                n=len(seeds),
                steps=steps,
                mean=[sum(values) / len(values) for values in at],
                low=[min(values) for values in at],
                high=[max(values) for values in at],
            )
        )
    return lines


def _metrics(cell: StoredRun) -> list[dict[str, Any]]:
    """The rows of a cell; none where they are missing or damaged."""
    try:
        rows = cell.record.read_metrics()
    except (OSError, ValueError):
        return []
    whole = all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows)
    return rows if whole else []


def _column(name: str, metrics: list[dict[str, Any]]) -> dict[int, float]:
    return {row["step"]: row[name] for row in metrics if _is_number(row.get(name))}


def _energy_change(metrics: list[dict[str, Any]]) -> dict[int, float]:
    """In percent by step; empty where the energy at step 0 is not known."""
    sums = {}
    for row in metrics:
        layers = row.get("energy")
        if isinstance(layers, dict) and layers and all(map(_is_number, layers.values())):
            sums[row["step"]] = sum(layers.values())
    start = sums.get(0)
    return {step: 100 * (value / start - 1) for step, value in sums.items()} if start else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _angles(row: Row) -> tuple[list[float], list[float]] | None:
    """Percent of pairs by bin before and after, over the seeds that have both."""
    pairs = [(result.angles_start, result.angles_end) for result in row.finished.values()]
    known = [(a, b) for a, b in pairs if a and b and len(a) == len(b) == ANGLE_BINS]
    if not known:
        return None
    return _percent([a for a, _ in known]), _percent([b for _, b in known])


def _percent(histograms: Sequence[list[int]]) -> list[float]:
    """Of their sum; zeros where that is empty."""
    counts = [sum(of_bin) for of_bin in zip(*histograms, strict=True)]
    return [100 * n / (sum(counts) or 1) for n in counts]
