"""Test errors under other conditions of training: fewer images, wrong labels."""

from collections import defaultdict
from collections.abc import Sequence

from matplotlib.figure import Figure

from opt_runner.report.comparison import Comparison
from opt_runner.report.figures.style import WIDTH, drawing, legend, prepare, styles, words

SHOWS = "Test errors with fewer training images, and with wrong labels"
_KEYS = {"dataset.share": 1.0, "dataset.label_noise": 0.0}  # with what a table without them has


def families(tables: Sequence[Comparison]) -> list[list[Comparison]]:
    """Tables that differ in these conditions and in nothing else; the plain one first."""
    found: dict[tuple[str, str, str], list[Comparison]] = defaultdict(list)
    for table in tables:
        if any(row.values("test_error") for row in table.rows):
            others = {key: value for key, value in table.differs.items() if key not in _KEYS}
            found[table.dataset, table.model, repr(sorted(others.items()))].append(table)
    return [
        sorted(of_task, key=_place)
        for of_task in found.values()
        if len({_place(table) for table in of_task}) > 1
    ]


def draw(tables: Sequence[Comparison]) -> Figure:
    """A panel a condition, a point a method; the difference to plain training is what counts."""
    with drawing():
        rows = max(len(table.rows) for table in tables)
        figure = Figure((WIDTH, 1.4 + 0.26 * rows), layout="constrained")
        task = f"{tables[0].dataset}, {tables[0].model}"
        title = f"{task}: test error, %, mean over seeds; faint: the seeds"
        figure.suptitle(words(title, 100), x=0.01, ha="left")
        panels = figure.subplots(1, len(tables), squeeze=False)[0]
        for axes, table in zip(panels, tables, strict=True):
            prepare(axes)
            axes.set_title(_condition(table), loc="left")
            for place, (row, style) in enumerate(zip(table.rows, styles(table), strict=True)):
                seeds = list(row.values("test_error").values())
                if not seeds:
                    continue
                axes.plot(
                    seeds, [place] * len(seeds), "o", color=style.colour, alpha=0.35,
                    markersize=4, markeredgewidth=0,
                )  # fmt: skip
                axes.plot(
                    sum(seeds) / len(seeds), place, marker=style.marker, color=style.colour,
                    markersize=7, linestyle="none", markeredgecolor="white", label=row.label,
                )  # fmt: skip
            axes.set_yticks([])
            axes.set_ylim(len(table.rows) - 0.4, -0.6)
        legend(figure, list(panels))
    return figure


def _place(table: Comparison) -> tuple[float, float]:
    values = {key: table.differs.get(key, default) for key, default in _KEYS.items()}
    return values["dataset.label_noise"], -values["dataset.share"]


def _condition(table: Comparison) -> str:
    share, noise = (table.differs.get(key, default) for key, default in _KEYS.items())
    told = [f"{share:.0%} of the images"] if share != 1 else []
    told += [f"{noise:.0%} wrong labels"] if noise else []
    return ", ".join(told) or "all images"
