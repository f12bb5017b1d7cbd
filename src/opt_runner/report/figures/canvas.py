"""Figures, axes and files, for all pictures."""

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

QUIET = "#666666"  # the colour of everything except the data
_WIDTH = 7.5  # inches: a page's text
_DPI = 200


_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "figure.titlesize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelcolor": QUIET,
    # A light grid behind the data, and no frame.
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.parse_math": False,  # a `$` in a label is a dollar
    "svg.hashsalt": "opt-runner",  # the same bytes for the same picture
}


@contextmanager
def drawing() -> Iterator[None]:
    """Ignore the user's matplotlibrc within the block."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(title: str, note: str, height: float) -> Figure:
    """Return an empty figure with a title and a note. height: in inches, below them."""
    head = "\n".join(wrapped(text, 100) for text in (title, note))
    figure = Figure((_WIDTH, height + 0.15 * head.count("\n")), layout="constrained")
    figure.suptitle(head, x=0.01, ha="left")
    return figure


def wrapped(text: str, width: int = 26) -> str:
    """Return text in lines of `width`, without characters that an SVG must not hold."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return textwrap.fill(printable, width, break_on_hyphens=False) or "-"


def shared_grid(figure: Figure, count: int, across: int, sharex: bool = True) -> list[Axes]:
    """Return `count` axes in lines of `across`, with one scale and numbers at the outer ones."""
    lines = math.ceil(count / across)
    grid = figure.subplots(lines, across, sharex=sharex, sharey=True, squeeze=False)
    every: list[Axes] = list(grid.flat)
    for axes in every[count:]:
        axes.remove()
    for place, axes in enumerate(every[:count]):
        axes.tick_params(labelbottom=not sharex or place + across >= count)
    return every[:count]


def make_logarithmic(
    axes: Axes, name: Literal["x", "y"], values: Sequence[float], narrow: bool = False
) -> None:
    """Make the axis of this name logarithmic, for these values, all above 0.

    It gets few ticks, in plain numbers, half as many if it is narrow.
    """
    low, high = min(values) / 1.2, max(values) * 1.2
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis = axes.xaxis if name == "x" else axes.yaxis
    decades = math.log10(high / low) * (2 if narrow else 1)
    choices = {1: (1, 2, 3, 5, 7), 3.3: (1, 2, 5), 5: (1, 3), math.inf: (1,)}
    ticks = next(choice for below, choice in choices.items() if decades < below)
    axis.set_major_locator(LogLocator(subs=ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def spread(values: Sequence[float]) -> bool:
    """Return True if a logarithmic axis suits: all are above 0 and differ by a factor of 4."""
    return len(values) > 0 and min(values) > 0 and max(values) >= 4 * min(values)


def as_bytes(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """Return the figure's file, the same bytes for the same figure."""
    file = io.BytesIO()
    with drawing():  # matplotlib makes the ticks only now
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(file, format=kind, dpi=_DPI, metadata=metadata)
    figure.set_layout_engine("none")  # the next file keeps this layout
    return file.getvalue()
