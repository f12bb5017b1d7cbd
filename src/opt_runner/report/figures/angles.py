"""Angles between the neurons of a layer before and after training; a panel a row."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from opt_runner.geometry import ANGLE_BINS
from opt_runner.report.comparison import TableRow
from opt_runner.report.figures.canvas import QUIET, drawing, shared_grid, wrapped
from opt_runner.report.figures.view import View

_NOTE = (
    "angles between neurons, % of pairs; light: before, line: after training; "
    "text: share that changed"
)
_ACROSS = 4


def draw_angles(view: View) -> Figure | None:
    """Draw the angles of each row; None if no record has any."""
    rows = [(row, found) for row in view.rows if (found := _percent_by_bin(row))]
    used = [k for _, pair in rows for of in pair for k, share in enumerate(of) if share > 0]
    if not used:
        return None
    width = 180 / ANGLE_BINS
    edges = [width * k for k in range(ANGLE_BINS + 1)]
    with drawing():
        figure: Figure = view.figure(_NOTE, 0.9 + 1.55 * -(-len(rows) // _ACROSS))
        grid = shared_grid(figure, len(rows), min(_ACROSS, len(rows)))
        for axes, (row, (before, after)) in zip(grid, rows, strict=True):
            axes.stairs(before, edges, fill=True, color="#A9CCE8")
            axes.stairs(after, edges, color="#1A1A1A", linewidth=1.1)
            axes.set_title(wrapped(row.label, 20))
            moved = sum(abs(a - b) for a, b in zip(before, after, strict=True)) / 2
            axes.text(
                0.03, 0.96, f"changed\n{moved:.2f}%",
                transform=axes.transAxes, color=QUIET, va="top", fontsize=8,
            )  # fmt: skip
        left, right = max(0, min(used) - 1), min(ANGLE_BINS, max(used) + 2)
        grid[0].set_xlim(edges[left], edges[right])
        grid[0].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 3, 6, 10]))
        grid[0].xaxis.set_major_formatter(lambda value, _: f"{value:g}°")
        grid[0].set_ylim(bottom=0)
    return figure


def _percent_by_bin(row: TableRow) -> tuple[list[float], list[float]] | None:
    """Return the percent of pairs in each bin before and after, over the seeds that have both."""
    pairs = [(r.start.angles, r.end.angles) for r in row.finished.values() if r.start and r.end]
    known = [pair for pair in pairs if len(pair[0]) == len(pair[1]) == ANGLE_BINS]
    if not known:
        return None
    before, after = (
        [sum(bins) for bins in zip(*of, strict=True)] for of in zip(*known, strict=True)
    )
    return _percent(before), _percent(after)


def _percent(counts: list[int]) -> list[float]:
    return [100 * n / (sum(counts) or 1) for n in counts]
