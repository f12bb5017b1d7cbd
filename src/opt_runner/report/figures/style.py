"""What all pictures share: each row's colour, dashes and marker; axes, legend and files.

Rows differ in colour, and in dashes or marker as well: nobody needs to see colours.
"""

import colorsys
import io
import math
import re
import textwrap
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from opt_runner.files import write_whole
from opt_runner.report.comparison import BASELINE, Comparison

QUIET = "#666666"  # the colour of what is not data
WIDTH = 7.5  # inches: a page's text
_DPI = 200
_HEX = "#[0-9a-fA-F]{6}"

# For methods that state no colour. Each lies as far as possible, in OKLab and as colour-blind
# people see it, from those before it and from the colours that our methods state: Glasbey et al.,
# "Colour displays for categorical images" (2007).
_PALETTE = (
    "#770022", "#6600aa", "#006600", "#8866ff", "#114455", "#aa2288", "#77cc66", "#bb0022",
    "#0044cc", "#ee88ff", "#774466", "#999944", "#cc55dd", "#ccaacc", "#333388", "#ff6666",
    "#8877bb", "#aabb99", "#aa5555", "#775533",
)  # fmt: skip
_DASHES: tuple[Any, ...] = (  # as matplotlib takes them
    "solid", (0, (5, 2)), (0, (1, 1.3)), (0, (5, 1.5, 1, 1.5)),
    (0, (4, 1.3, 1, 1.3, 1, 1.3)),
)  # fmt: skip
_MARKERS = ("o", "s", "^", "v", "D", "P", "X", ">", "<", "h", "d", "p")


@dataclass(frozen=True)
class Style:
    """How a row of a table is drawn, the same in all pictures of the table."""

    colour: str
    dashes: Any
    marker: str
    width: float = 1.5


def styles(table: Comparison) -> list[Style]:
    """One a row, all different up to 60 rows.

    The colour is that which the method states, else one of a palette, the same in every table
    unless another row has it. Rows of one method are shades of its colour.
    """
    stated = {row.method: row.colour for row in table.rows}
    colours = method_colours(stated)
    count = Counter(row.method for row in table.rows)
    before: Counter[str] = Counter()
    found = []
    for place, row in enumerate(table.rows):
        found.append(
            Style(
                colour=_shade(colours[row.method], before[row.method], count[row.method]),
                dashes=_DASHES[place % len(_DASHES)],
                marker=_MARKERS[place % len(_MARKERS)],
                width=2.6 if row.method == BASELINE else 1.5,
            )
        )
        before[row.method] += 1
    return found


def method_colours(stated: Mapping[str, str | None]) -> dict[str, str]:
    """A colour #rrggbb for each method's name. stated: by name, what the methods state."""
    colours = {name: c.lower() for name, c in stated.items() if c and re.fullmatch(_HEX, c)}
    for name in sorted(stated.keys() - colours):
        # Not hash(), which is another one in every process.
        start = zlib.crc32(name.encode()) % len(_PALETTE)
        turned = (*_PALETTE[start:], *_PALETTE[:start])
        colours[name] = next((c for c in turned if c not in colours.values()), turned[0])
    return colours


def _shade(colour: str, place: int, count: int) -> str:
    """One of `count` shades of the colour, from dark to light; the colour itself if it is alone."""
    if count == 1:
        return colour
    hue, _, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return to_hex(colorsys.hls_to_rgb(hue, 0.22 + 0.56 * place / (count - 1), saturation))


@contextmanager
def drawing() -> Iterator[None]:
    """The same pictures whatever a user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.size": 9,
                "axes.titlesize": 9,
                "figure.titlesize": 9,
                "text.parse_math": False,  # a `$` in a label is a dollar
                "svg.hashsalt": "opt-runner",  # the same bytes for the same picture
            }
        )
        yield


def new_figure(table: Comparison, note: str, height: float) -> Figure:
    """An empty figure under the table's title and a note. height: in inches, of all below them."""
    title = f"{words(table.title, 100)}\n{words(note, 100)}"
    figure = Figure((WIDTH, height + 0.15 * title.count("\n")), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def words(text: str, width: int = 26) -> str:
    """On lines of `width`, without what cannot be printed, which an SVG must not hold."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return textwrap.fill(printable, width, break_on_hyphens=False) or "-"


def prepare(axes: Axes) -> None:
    """A light grid behind the data, and no frame."""
    axes.grid(color="#e2e2e2", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(length=0, colors=QUIET, labelsize=9)


def make_logarithmic(
    axes: Axes, name: Literal["x", "y"], values: Sequence[float], narrow: bool = False
) -> None:
    """The axis of this name, for these values, all above 0; few ticks, in plain numbers: half as
    many where the axis is narrow."""
    low, high = min(values) / 1.2, max(values) * 1.2
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis = axes.xaxis if name == "x" else axes.yaxis
    decades = math.log10(high / low) * (2 if narrow else 1)
    choices = {1: (1, 2, 3, 5, 7), 3.3: (1, 2, 5), 5: (1, 3), math.inf: (1,)}
    ticks = next(choice for below, choice in choices.items() if decades < below)
    axis.set_major_locator(LogLocator(subs=ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Below the panels, where it hides nothing; one entry a label. The figure grows by it."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    longest = max(len(line) for label in entries for line in label.split("\n"))
    lines = math.ceil(len(entries) / max(1, min(4, 112 // (longest + 9))))
    most = max(1 + label.count("\n") for label in entries)  # lines of a label
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.19 * most * lines)
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower left", frameon=False,
        handlelength=3.2, ncols=math.ceil(len(entries) / lines),
    )  # fmt: skip


def save(figure: Figure, path: Path) -> list[Path]:
    """Write `path`.png and `path`.svg, the same bytes for the same figure. Raises CannotWrite."""
    paths = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "svg")]
    for file in paths:
        write_whole(file, partial(_write, figure, kind=file.suffix[1:]))
    return paths


def as_bytes(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """The file that `save` writes."""
    file = io.BytesIO()
    _write(figure, file, kind)
    return file.getvalue()


def _write(figure: Figure, file: IO[bytes], kind: str) -> None:
    with drawing():  # ticks are made only now
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(file, format=kind, dpi=_DPI, metadata=metadata)
