"""The look of each row: colour, dashes and marker, the same in all pictures of a table.

Rows differ in colour and also in dashes or marker, so that nobody needs to see colours.
"""

import colorsys
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import to_hex, to_rgb

from opt_runner.report.comparison import BASELINE, TableRow

_HEX = "#[0-9a-fA-F]{6}"

# For methods without their own colour. In OKLab and for colour-blind people, each is as far as
# possible from the colours before it and from those of the package's methods: Glasbey et al.,
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
    """The look of a row."""

    colour: str
    dashes: Any
    marker: str
    width: float = 1.5


def styles(rows: Sequence[TableRow]) -> list[Style]:
    """Return a style for each row, all different up to 60 rows.

    The colour is the method's own or one of a palette, the same in every table unless another row
    has it. Rows of one method are shades of its colour.
    """
    colours = method_colours({row.method: row.colour for row in rows})
    count = Counter(row.method for row in rows)
    before: Counter[str] = Counter()
    found = []
    for place, row in enumerate(rows):
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
    """Return a colour #rrggbb for each method's name. stated: by name, the methods' own colours."""
    colours = {name: c.lower() for name, c in stated.items() if c and re.fullmatch(_HEX, c)}
    for name in sorted(stated.keys() - colours):
        # Not hash(), which differs between processes.
        start = zlib.crc32(name.encode(errors="replace")) % len(_PALETTE)
        turned = (*_PALETTE[start:], *_PALETTE[:start])
        colours[name] = next((c for c in turned if c not in colours.values()), turned[0])
    return colours


def _shade(colour: str, place: int, count: int) -> str:
    """Return one of `count` shades of the colour, from dark to light."""
    if count == 1:
        return colour
    hue, _, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return to_hex(colorsys.hls_to_rgb(hue, 0.22 + 0.56 * place / (count - 1), saturation))
